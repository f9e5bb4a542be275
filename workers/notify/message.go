package notify

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
)

// message is what to send, and where to as the channel says it.
type message struct {
	channel, url, title, text string
	id                        string // of the task: the same for a repeat
}

func readMessage(with map[string]any) (m message, err error) {
	for name, dst := range map[string]*string{"channel": &m.channel, "url": &m.url, "title": &m.title, "text": &m.text} {
		v, ok := with[name]
		if !ok || v == nil {
			continue
		}
		if *dst, ok = v.(string); !ok {
			return m, fmt.Errorf("input %q is a %T, want a string", name, v)
		}
	}
	m.title = strings.Join(strings.Fields(printable(m.title)), " ")
	m.text = printable(m.text)
	m.url = strings.TrimSpace(m.url)
	if m.channel == "" {
		return m, errors.New("input \"channel\" is missing: it names the channel to send through")
	}
	if strings.TrimSpace(m.text) == "" && m.title == "" {
		return m, errors.New("input \"text\" is empty: there is nothing to send")
	}
	return m, nil
}

// printable drops control characters: texts hold what others wrote, and a
// terminal or a mail header gives some of them a meaning.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || !unicode.IsControl(r) {
			return r
		}
		return -1
	}, strings.ToValidUTF8(s, "\ufffd"))
}

// maxURLFile bounds what is read from file:PATH, in bytes.
const maxURLFile = 16 << 10

// resolve reads env:NAME and file:PATH. It names the place in an error, never
// what is there.
func resolve(url string) (string, error) {
	if name, ok := strings.CutPrefix(url, "env:"); ok {
		v := strings.TrimSpace(os.Getenv(name))
		if v == "" {
			return "", fmt.Errorf("its url is in the environment variable %s, which is not set in this worker", name)
		}
		return v, nil
	}
	path, ok := strings.CutPrefix(url, "file:")
	if !ok {
		return url, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("its url is in a file that this worker cannot read: %w", err)
	}
	defer f.Close()
	p, err := io.ReadAll(io.LimitReader(f, maxURLFile+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("its url is in a file that this worker cannot read: %w", err)
	case len(p) > maxURLFile:
		return "", fmt.Errorf("its url is in the file %s, which is too large for one", path)
	case strings.TrimSpace(string(p)) == "":
		return "", fmt.Errorf("its url is in the file %s, which is empty", path)
	}
	return strings.TrimSpace(string(p)), nil
}
