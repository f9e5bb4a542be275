package bus

import "os"

// FromEnvironment is c with what the environment variables NATS_URL,
// NATS_USER, NATS_PASSWORD, NATS_CREDS and NATS_CA say instead. c may be nil,
// and the answer is nil when it is and NATS_URL is not set. Another user is
// another principal: NATS_USER also becomes the name, and what proved the
// former one is dropped.
func FromEnvironment(c *Credential) *Credential {
	url := os.Getenv("NATS_URL")
	if c == nil && url == "" {
		return nil
	}
	out := Credential{}
	if c != nil {
		out = *c
	}
	if url != "" {
		out.URL = url
	}
	if user := os.Getenv("NATS_USER"); user != "" && user != out.User {
		out.User, out.Name, out.Password, out.Creds, out.InboxPrefix, out.Token = user, user, "", "", "", ""
	}
	if password := os.Getenv("NATS_PASSWORD"); password != "" {
		out.Password = password
	}
	if creds := os.Getenv("NATS_CREDS"); creds != "" {
		out.Creds, out.User, out.Password = creds, "", ""
	}
	if ca := os.Getenv("NATS_CA"); ca != "" {
		out.CA = ca
	}
	if out.Kind == "" {
		out.Kind = KindUser
	}
	return &out
}
