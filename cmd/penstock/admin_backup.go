package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock-cd/penstock/engine"
)

func (a *app) adminBackupCommand() *cobra.Command {
	o := engine.Options{}
	cmd := &cobra.Command{
		Use:   "backup FILE|DIR",
		Short: "Copy a running installation to a file",
		Long: `Copies a running installation to FILE, or to a file with the time in its name in
DIR: records, audit log, definitions, events, tasks, output and artifacts. It
asks an engine for the copy over HTTP, with an administrator's credential; with
--nats it asks the NATS server itself, as an engine would, and needs no engine.
What was written is read back and compared before it counts.

The keys and credentials in data directories are not copied: keep task-key.pem
where you keep secrets, if workers pin it.`,
		Example: `  penstock admin backup /backup
  penstock admin backup penstock.tar --nats nats://nats-1:4222 --creds /etc/penstock/creds`,
		Args: args("FILE|DIR"),
		RunE: func(cmd *cobra.Command, arg []string) error {
			return a.backup(cmd, o, arg[0])
		},
	}
	externalFlags(cmd, &o)
	return cmd
}

func (a *app) backup(cmd *cobra.Command, o engine.Options, path string) error {
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		path = filepath.Join(path, "penstock-"+a.now().UTC().Format("20060102T150405Z")+".tar")
	} else if err == nil {
		return usagef("%s is there already", path).withHint("a backup replaces nothing; name another file, or a folder")
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".penstock-backup-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if err := a.copyInto(cmd, o, tmp); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if _, err := tmp.Seek(0, io.SeekStart); err != nil {
		return err
	}
	m, err := engine.VerifyBackup(tmp)
	if err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return a.printBackup(m, path)
}

// copyInto writes a copy of the installation to w.
func (a *app) copyInto(cmd *cobra.Command, o engine.Options, w io.Writer) error {
	if o.External != "" || o.Creds != "" || o.Context != "" {
		dir, err := os.MkdirTemp("", "penstock-backup-") // nothing of this is kept
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		o.Dir, o.Log = dir, logger(a.stderr, false)
		_, err = engine.Backup(cmd.Context(), o, w)
		return err
	}
	cred, from, err := a.findCredential()
	if err != nil {
		return err
	}
	if cred.HTTP == "" || cred.Token == "" {
		return (&failure{exit: exitFailed, code: "failed", message: "the credential has no HTTP address or token, and a backup comes over HTTP"}).
			withHint("the credential is %s (from %s)", from.path, from.from)
	}
	return download(cmd.Context(), cred.HTTP+"/v1/backup", cred.Token, w)
}

func download(ctx context.Context, url, token string, w io.Writer) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10)) // only to say why
		return fmt.Errorf("%s: %s: %s", url, answer.Status, clean(string(text)))
	}
	if _, err := io.Copy(w, answer.Body); err != nil {
		return fmt.Errorf("the backup broke off; the server's log says why: %w", err)
	}
	return nil
}

func (a *app) adminRestoreCommand() *cobra.Command {
	o := engine.Options{}
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Restore a backup, stopped",
		Long: `Restores a backup into an empty data directory (--data), or with --nats into a
NATS server that has none of the streams. No engine may run there.

What is restored is old: deployments may have happened since that it knows
nothing of. So every partition is stopped until you have looked at what is
deployed and begin a new epoch.`,
		Example: `  penstock admin restore /backup/penstock-20261126T080000Z.tar --data /var/lib/penstock
  penstock admin restore penstock.tar --nats nats://nats-1:4222 --creds /etc/penstock/creds`,
		Args: args("FILE"),
		RunE: func(cmd *cobra.Command, arg []string) error {
			f, err := os.Open(arg[0])
			if err != nil {
				return err
			}
			defer f.Close()
			if o.Dir, err = a.serverDir(); err != nil {
				return err
			}
			o.Log = logger(a.stderr, false)
			m, err := engine.Restore(cmd.Context(), o, f)
			if err != nil {
				return err
			}
			if err := a.printBackup(m, arg[0]); err != nil {
				return err
			}
			a.note("everything is stopped: start the server, look at what is deployed, then penstock admin new-epoch --all")
			return nil
		},
	}
	externalFlags(cmd, &o)
	return cmd
}

func (a *app) printBackup(m *engine.BackupManifest, path string) error {
	if a.output == "json" {
		return a.printJSON(map[string]any{"file": path, "manifest": m})
	}
	t := table{head: []string{"STREAM", "MESSAGES", "LAST", "BYTES"}}
	for _, s := range m.Streams {
		held, err := s.Holds()
		if err != nil {
			return err
		}
		t.add(s.Name, fmt.Sprint(held.Messages), fmt.Sprint(held.LastSeq), fmt.Sprint(s.Bytes))
	}
	t.print(a.stdout, "")
	fields(a.stdout, "", "Backup", path, "Of", m.Began.Format(time.RFC3339), "By", m.Version)
	return nil
}
