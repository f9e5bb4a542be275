package notify

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"html"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"net/smtp"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"time"

	shoutsmtp "github.com/nicholas-fedor/shoutrrr/pkg/services/email/smtp"
)

// sendMail sends m by SMTP. The url is read by shoutrrr, with every parameter
// that it documents; the session is held here, because shoutrrr's connects by
// itself, past the guard, has no deadline after the greeting, and puts the
// subject into the header as it is.
func (t target) sendMail(ctx context.Context, g *guard, m message) *failure {
	c, err := t.mailConfig()
	if err != nil {
		return &failure{code: codeURL, text: "its url is not one of the service smtp: " + t.redact.clean(err.Error())}
	}
	if m.title == "" {
		m.title = c.Subject
	}
	err = deliver(ctx, g, c, m)
	if err == nil {
		return nil
	}
	if text, no := denied(err); no {
		return &failure{code: codeDenied, text: "smtp: " + text}
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	f := &failure{code: codeUnreachable, text: fmt.Sprintf("mail server %s: %s", c.Host, t.redact.clean(err.Error())), again: true}
	answer, ok := errors.AsType[*textproto.Error](err)
	if ok && answer.Code >= 500 || errors.Is(err, errMail) {
		f.code, f.again = codeRefused, false
	}
	return f
}

// errMail is for what another attempt does not change.
var errMail = errors.New("cannot send")

func (t target) mailConfig() (*shoutsmtp.Config, error) {
	u, err := url.Parse(t.url)
	if err != nil {
		return nil, errors.New("cannot be read")
	}
	var s shoutsmtp.Service
	if err := s.Initialize(u, nil); err != nil {
		return nil, err
	}
	s.Config.FixEmailTags()
	for _, a := range append([]string{s.Config.FromAddress}, s.Config.ToAddresses...) {
		if _, err := mail.ParseAddress(a); err != nil {
			return nil, fmt.Errorf("the address %s is not one of a mailbox", a)
		}
	}
	return s.Config, nil
}

// deliver holds one session: all recipients or none.
func deliver(ctx context.Context, g *guard, c *shoutsmtp.Config, m message) error {
	port := strconv.Itoa(int(c.Port))
	conn, err := g.dial(ctx, "tcp", net.JoinHostPort(c.Host, port), "25", "465", "587", "2525")
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	secured := &tls.Config{ServerName: c.Host, MinVersion: tls.VersionTLS12, InsecureSkipVerify: c.SkipTLSVerify}
	if c.Encryption == shoutsmtp.EncImplicitTLS || c.Encryption == shoutsmtp.EncAuto && c.Port == shoutsmtp.ImplicitTLSPort {
		conn = tls.Client(conn, secured)
	}
	client, err := smtp.NewClient(conn, c.Host)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.Hello(clientHost(c)); err != nil {
		return err
	}
	if err := secure(client, c, secured); err != nil {
		return err
	}
	if err := authenticate(client, c); err != nil {
		return err
	}
	if err := client.Mail(c.FromAddress); err != nil {
		return err
	}
	for _, to := range c.ToAddresses {
		if err := client.Rcpt(to); err != nil {
			return err
		}
	}
	w, err := client.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(compose(c, m, time.Now())); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	_ = client.Quit() // the server has taken the mail: what it says now changes nothing
	return nil
}

func clientHost(c *shoutsmtp.Config) string {
	if c.ClientHost == "" || c.ClientHost == "auto" {
		return "localhost"
	}
	return c.ClientHost
}

func secure(client *smtp.Client, c *shoutsmtp.Config, secured *tls.Config) error {
	if _, is := client.TLSConnectionState(); is || c.Encryption == shoutsmtp.EncNone || !c.UseStartTLS {
		return nil
	}
	if ok, _ := client.Extension("STARTTLS"); ok {
		return client.StartTLS(secured)
	}
	if c.RequireStartTLS || c.Encryption == shoutsmtp.EncExplicitTLS {
		return fmt.Errorf("%w: the server offers no encryption (STARTTLS), which the url requires", errMail)
	}
	return nil
}

func authenticate(client *smtp.Client, c *shoutsmtp.Config) error {
	var auth smtp.Auth
	switch c.Auth {
	case shoutsmtp.AuthTypes.None:
		return nil
	case shoutsmtp.AuthTypes.CRAMMD5:
		auth = smtp.CRAMMD5Auth(c.Username, c.Password)
	case shoutsmtp.AuthTypes.OAuth2:
		auth = shoutsmtp.OAuth2Auth(c.Username, c.Password)
	default:
		auth = smtp.PlainAuth("", c.Username, c.Password, c.Host)
	}
	err := client.Auth(auth)
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*textproto.Error](err); ok {
		return err
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return err
	}
	return fmt.Errorf("%w: %w", errMail, err) // the client refuses, for example to send a password in clear
}

// compose writes the mail. Its id is that of the task, so that a second copy
// of a repeated attempt can be recognised.
func compose(c *shoutsmtp.Config, m message, now time.Time) []byte {
	var b bytes.Buffer
	header := func(name, value string) {
		b.WriteString(name + ": " + strings.Join(strings.Fields(printable(value)), " ") + "\r\n")
	}
	_, domain, _ := strings.Cut(c.FromAddress, "@")
	id := sha256.Sum256([]byte(m.id + "\x00" + m.channel))
	kind, text := "text/plain", m.text
	if c.UseHTML {
		kind, text = "text/html", "<pre>"+html.EscapeString(text)+"</pre>"
	}
	header("From", (&mail.Address{Name: c.FromName, Address: c.FromAddress}).String())
	header("To", strings.Join(c.ToAddresses, ", "))
	header("Subject", mime.QEncoding.Encode("utf-8", m.title))
	header("Date", now.Format(time.RFC1123Z))
	header("Message-ID", fmt.Sprintf("<%x@%s>", id[:16], domain))
	header("Auto-Submitted", "auto-generated")
	header("MIME-Version", "1.0")
	header("Content-Type", kind+"; charset=utf-8")
	header("Content-Transfer-Encoding", "quoted-printable")
	b.WriteString("\r\n")
	w := quotedprintable.NewWriter(&b)
	w.Write([]byte(text)) // a buffer takes everything
	w.Close()
	return b.Bytes()
}
