package notify_test

import (
	"bufio"
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers/notify"
	"github.com/penstock-cd/penstock/workers/workertest"
)

// mailServer is an SMTP server of a few verbs. Its replies to RCPT or AUTH
// are the given ones, one for each session, the last one for ever.
type mailServer struct {
	addr    string
	replies []string

	mu       sync.Mutex
	sessions int
	rcpt     []string
	mails    []string
}

func newMailServer(t *testing.T, replies ...string) *mailServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &mailServer{addr: l.Addr().String(), replies: replies}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.serve(conn) })
		}
	})
	return s
}

func (s *mailServer) serve(conn net.Conn) {
	defer conn.Close()
	s.mu.Lock()
	reply := "250 ok"
	if len(s.replies) > 0 {
		reply = s.replies[min(s.sessions, len(s.replies)-1)]
	}
	s.sessions++
	s.mu.Unlock()
	in := bufio.NewScanner(conn)
	fmt.Fprint(conn, "220 test\r\n")
	for in.Scan() {
		verb, rest, _ := strings.Cut(in.Text(), " ")
		switch verb {
		case "EHLO":
			fmt.Fprint(conn, "250-test\r\n250 AUTH PLAIN\r\n")
		case "AUTH":
			fmt.Fprint(conn, reply+"\r\n")
		case "RCPT":
			s.mu.Lock()
			s.rcpt = append(s.rcpt, rest)
			s.mu.Unlock()
			fmt.Fprint(conn, reply+"\r\n")
		case "DATA":
			fmt.Fprint(conn, "354 go on\r\n")
			var b strings.Builder
			for in.Scan() && in.Text() != "." {
				b.WriteString(strings.TrimPrefix(in.Text(), ".") + "\r\n")
			}
			s.mu.Lock()
			s.mails = append(s.mails, b.String())
			s.mu.Unlock()
			fmt.Fprint(conn, "250 taken\r\n")
		case "QUIT":
			fmt.Fprint(conn, "221 bye\r\n")
			return
		default:
			fmt.Fprint(conn, "250 ok\r\n")
		}
	}
}

// got is what has arrived.
func (s *mailServer) got() (sessions int, rcpt, mails []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions, s.rcpt, s.mails
}

func (s *mailServer) url() string {
	return "smtp://" + s.addr + "/?from=penstock@x.example&fromname=Penstock&to=ana@x.example,li+ops@x.example"
}

func TestMailArrivesWithItsHeadersInOnePiece(t *testing.T) {
	s := newMailServer(t)
	r, _ := do(t, inside, map[string]any{"channel": "c", "url": s.url(), "title": "Freigabe für\r\nBcc: eve@x.example", "text": "größer\n.\nthan"})
	if r.Outcome != events.Succeeded || r.Outputs["service"] != "smtp" {
		t.Fatalf("result %+v, error %v", r, r.Error)
	}
	_, rcpt, mails := s.got()
	if want := []string{"TO:<ana@x.example>", "TO:<li+ops@x.example>"}; !slices.Equal(rcpt, want) {
		t.Errorf("recipients %q, want %q", rcpt, want)
	}
	m, err := mail.ReadMessage(strings.NewReader(mails[0]))
	if err != nil {
		t.Fatal(err)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if err != nil || subject != "Freigabe für Bcc: eve@x.example" || m.Header.Get("Bcc") != "" {
		t.Errorf("subject %q (%v), Bcc %q; want the title in one header", subject, err, m.Header.Get("Bcc"))
	}
	body, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	if got := strings.ReplaceAll(strings.TrimRight(string(body), "\r\n"), "\r\n", "\n"); err != nil || got != "größer\n.\nthan" {
		t.Errorf("body %q, %v", got, err)
	}
}

func TestACopyOfAMailHasTheSameId(t *testing.T) {
	s := newMailServer(t)
	for range 2 {
		job := workertest.New(t, map[string]any{"channel": "c", "url": s.url(), "text": "x"})
		if r := notify.New(inside).Do(t.Context(), job); r.Error != nil {
			t.Fatal(r.Error)
		}
	}
	_, _, mails := s.got()
	id := func(i int) string {
		m, err := mail.ReadMessage(strings.NewReader(mails[i]))
		if err != nil {
			t.Fatal(err)
		}
		return m.Header.Get("Message-ID")
	}
	if id(0) != id(1) || !strings.HasSuffix(id(0), "@x.example>") {
		t.Errorf("ids %q and %q, want the same", id(0), id(1))
	}
}

func TestAMailServerThatIsBusyIsTriedAgain(t *testing.T) {
	s := newMailServer(t, "451 4.3.0 later", "250 ok")
	r, _ := do(t, inside, map[string]any{"channel": "c", "url": s.url(), "text": "x"})
	sessions, _, mails := s.got()
	if r.Outcome != events.Succeeded || sessions != 2 || len(mails) != 1 {
		t.Errorf("result %+v (%v), %d sessions, %d mails; want one mail in the second", r, r.Error, sessions, len(mails))
	}
}

func TestAMailServerThatRefusesIsNotTriedAgain(t *testing.T) {
	s := newMailServer(t, "550 5.1.1 nobody here")
	r, _ := do(t, inside, map[string]any{"channel": "c", "url": s.url(), "text": "x"})
	wantFailure(t, r, "channel_refused", false)
	if sessions, _, _ := s.got(); sessions != 1 || !strings.Contains(r.Error.Message, "nobody here") {
		t.Errorf("%d sessions, message %q", sessions, r.Error.Message)
	}
}

func TestMailIsNotSentInClearWhenTheUrlRequiresEncryption(t *testing.T) {
	s := newMailServer(t)
	r, _ := do(t, inside, map[string]any{"channel": "c", "url": s.url() + "&requirestarttls=yes", "text": "x"})
	wantFailure(t, r, "channel_refused", false)
	if _, _, mails := s.got(); len(mails) != 0 || !strings.Contains(r.Error.Message, "STARTTLS") {
		t.Errorf("%d mails, message %q", len(mails), r.Error.Message)
	}
}
