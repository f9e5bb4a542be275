package bus

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Credential is what a program needs to reach Penstock: where the bus is, who
// the program is there, and for HTTP its token. Its file (mode 0600) is at the
// same time a context file of the nats command line client, whose keys it
// uses; the keys that begin with "penstock_" are Penstock's own.
type Credential struct {
	Description string `json:"description,omitempty"`
	URL         string `json:"url"`
	User        string `json:"user,omitempty"`
	Password    string `json:"password,omitempty"`
	Creds       string `json:"creds,omitempty"` // path of a NATS credentials file, instead of user and password
	CA          string `json:"ca,omitempty"`    // path of a CA bundle
	InboxPrefix string `json:"inbox_prefix,omitempty"`

	Kind  string `json:"penstock_kind"`           // "admin", "user", "worker", "publisher" or "engine"
	Name  string `json:"penstock_name"`           // the principal: its token in subjects
	Pool  string `json:"penstock_pool,omitempty"` // of a worker
	HTTP  string `json:"penstock_http,omitempty"` // base URL of the HTTP API
	Token string `json:"penstock_token,omitempty"`
	// TaskKeys are the engine's public keys that sign tasks, base64 ed25519.
	TaskKeys []string `json:"penstock_task_keys,omitempty"`
}

// ReadCredential reads a credential file.
func ReadCredential(path string) (*Credential, error) {
	p, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("credential %s: there is no such file", path)
	}
	if err != nil {
		return nil, fmt.Errorf("credential %s: %w", path, err)
	}
	var c Credential
	if err := json.Unmarshal(p, &c); err != nil {
		return nil, fmt.Errorf("credential %s: not JSON: %w", path, err)
	}
	if c.URL == "" && c.HTTP == "" {
		return nil, fmt.Errorf("credential %s: it names neither a url of the bus nor a penstock_http one", path)
	}
	return &c, nil
}

// Write stores the credential at path with mode 0600, replacing what is there
// as a whole.
func (c *Credential) Write(path string) error {
	p, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".credential-*") // CreateTemp gives mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	// Synced before it replaces what was there: after a power cut there is
	// the old credential or the new one, never half of one.
	_, err = tmp.Write(append(p, '\n'))
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
