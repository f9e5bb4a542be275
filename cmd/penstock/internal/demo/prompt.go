package demo

import (
	"bufio"
	"context"
	"io"
	"strings"
)

// lines gives what the person types, line by line; it is closed at the end of
// the input.
func lines(in io.Reader) <-chan string {
	ch := make(chan string)
	go func() {
		defer close(ch)
		for s := bufio.NewScanner(in); s.Scan(); {
			ch <- s.Text()
		}
	}()
	return ch
}

// choices is the one question of the story.
const choices = `
        What now?
          m  approve as marta, a release manager
          a  approve as ana, who wrote the change
          w  ask why it waits
          r  reject it as marta
          q  quit
`

// choose asks until the answer is one of the choices.
func (s *story) choose(ctx context.Context) (string, error) {
	s.narrator.doingNow("")
	s.narrator.write(choices)
	for {
		s.narrator.write("        > ")
		answer, err := s.typed(ctx)
		if err != nil {
			return "", err
		}
		answer = strings.ToLower(strings.TrimSpace(answer))
		if answer != "" && strings.Contains("mawrq", answer[:1]) {
			return answer[:1], nil
		}
		s.narrator.write("        m, a, w, r or q?\n")
	}
}

// typed is the next line that the person types.
func (s *story) typed(ctx context.Context) (string, error) {
	if s.keyboard == nil {
		s.keyboard = lines(s.options.In)
	}
	select {
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case line, ok := <-s.keyboard:
		if !ok {
			return "", ErrQuit
		}
		return line, nil
	}
}
