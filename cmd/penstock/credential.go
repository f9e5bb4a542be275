package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
	"github.com/spf13/cobra"
)

// adminFile is the name, in a server's data directory, of the credential that
// the server writes for its administrator.
const adminFile = "admin.json"

// localData is where a server keeps its data when it is not told otherwise,
// below the working directory.
const localData = ".penstock"

// place is somewhere a credential may be. explicit means that the user named
// it: then it must be there, and nothing else is tried.
type place struct {
	path, from string
	explicit   bool
}

// places lists where credentials are looked for, first match wins.
func (a *app) places() []place {
	var list []place
	add := func(path, from string, explicit bool) {
		if path != "" {
			list = append(list, place{path, from, explicit})
		}
	}
	add(a.credential, "--credential", true)
	if a.data != "" { // a flag goes before every variable
		add(filepath.Join(a.data, adminFile), "--data", true)
	}
	add(os.Getenv("PENSTOCK_CREDENTIAL"), "$PENSTOCK_CREDENTIAL", true)
	if dir := os.Getenv("PENSTOCK_DATA"); dir != "" {
		add(filepath.Join(dir, adminFile), "$PENSTOCK_DATA", true)
	}
	add(filepath.Join(localData, adminFile), "the working directory", false)
	if path, err := rememberedServer(); err == nil {
		add(path, "the server that was started last", false)
	}
	return list
}

// findCredential reads the credential to use and says where it was found.
func (a *app) findCredential() (*bus.Credential, place, error) {
	var looked []string
	for _, p := range a.places() {
		c, err := bus.ReadCredential(p.path)
		if err == nil {
			return bus.FromEnvironment(c), p, nil
		}
		missing := false
		if _, e := os.Stat(p.path); errors.Is(e, fs.ErrNotExist) {
			missing = true
		}
		if p.explicit || !missing {
			f := &failure{exit: exitDenied, code: "no_credential", message: fmt.Sprintf("%s (from %s)", err, p.from)}
			if missing && strings.Contains(p.from, "ata") {
				f.hint = "a server that runs with this data directory writes it: penstock server --data " + filepath.Dir(p.path)
			}
			return nil, p, f
		}
		looked = append(looked, p.path)
	}
	if c := bus.FromEnvironment(nil); c != nil {
		return c, place{from: "$NATS_URL"}, nil
	}
	looked = append([]string{"--credential, $PENSTOCK_CREDENTIAL, --data and $PENSTOCK_DATA, which are not set"}, looked...)
	if pointer, err := serverPointer(); err == nil {
		if _, err := rememberedServer(); err != nil {
			looked = append(looked, pointer+", which names the server that was started last")
		}
	}
	f := &failure{exit: exitDenied, code: "no_credential",
		message: "found no credential for a server; looked at\n  " + strings.Join(looked, "\n  ")}
	return nil, place{}, f.withHint("start a server of your own: penstock server\nor name a credential that you were given: --credential FILE")
}

// serverPointer is the file that holds the path of the administrator's
// credential of the server that was started last on this machine.
func serverPointer() (string, error) {
	dir := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(dir) { // the XDG rule: a relative path counts as unset
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(dir, "penstock", "current"), nil
}

// rememberServer makes the administrator's credential at path the one that is
// used where no other is named. The server command calls it.
func rememberServer(path string) error {
	pointer, err := serverPointer()
	if err != nil {
		return err
	}
	if path, err = filepath.Abs(path); err != nil {
		return err
	}
	dir := filepath.Dir(pointer)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, "current-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err := fmt.Fprintln(tmp, path); err != nil {
		tmp.Close()
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), pointer)
}

// rememberedServer gives the path that rememberServer was last given.
func rememberedServer() (string, error) {
	pointer, err := serverPointer()
	if err != nil {
		return "", err
	}
	p, err := os.ReadFile(pointer)
	if err != nil {
		return "", err
	}
	path := strings.TrimSpace(string(p))
	if path == "" {
		return "", fmt.Errorf("%s is empty", pointer)
	}
	return path, nil
}

// credentialView is the output of the credential command; it has no secret.
type credentialView struct {
	File string `json:"file"`
	From string `json:"from"`
	Kind string `json:"kind"`
	Name string `json:"name"`
	Pool string `json:"pool,omitempty"`
	NATS string `json:"nats"`
	HTTP string `json:"http,omitempty"`
}

func (a *app) credentialCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "credential",
		Short: "Say which credential is used, and from where",
		Long: `Says which credential the other commands use. The first of these counts:

  --credential FILE or --data DIR
  $PENSTOCK_CREDENTIAL
  $PENSTOCK_DATA/admin.json
  ./.penstock/admin.json
  the server that was started last on this machine

$NATS_URL, $NATS_USER, $NATS_PASSWORD, $NATS_CREDS and $NATS_CA go before what
the file says. A credential file is a context file of the nats command
line client, too.`,
		Example: `  penstock credential
  penstock credential --credential marta.json
  export PENSTOCK_CREDENTIAL=marta.json`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, p, err := a.findCredential()
			if err != nil {
				return err
			}
			file := p.path
			if abs, err := filepath.Abs(file); err == nil && file != "" {
				file = abs
			}
			if a.output == "json" {
				return a.printJSON(credentialView{File: file, From: p.from, Kind: c.Kind, Name: c.Name, Pool: c.Pool, NATS: c.URL, HTTP: c.HTTP})
			}
			fields(a.stdout, "", "File", file, "From", p.from, "For", strings.TrimSpace(c.Kind+" "+c.Name), "Pool", c.Pool, "NATS", c.URL, "HTTP", c.HTTP)
			if file != "" {
				a.natsHints(file, c)
			}
			return nil
		},
	}
}

// natsHints says how the nats command line client uses the same file.
func (a *app) natsHints(file string, c *bus.Credential) {
	a.note("\nThe nats command line client takes the same file as a context:")
	a.note("  cp %s ~/.config/nats/context/penstock.json", file)
	switch c.Kind {
	case "publisher":
		subject := events.IngressSubject(events.DefaultTenant, c.Name, "KEY", "TYPE")
		a.note("  nats --context penstock publish %s \"$(cat event.json)\"", subject)
	case "user", "admin":
		a.note("  nats --context penstock subscribe 'penstock.live.>'")
	}
}
