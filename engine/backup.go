package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/penstock-cd/penstock/engine/internal/backup"
	"github.com/penstock-cd/penstock/engine/internal/broker"
	"github.com/penstock-cd/penstock/events"
)

// BackupManifest says what a backup holds.
type BackupManifest = backup.Manifest

// VerifyBackup reads a whole backup and compares it with its manifest.
func VerifyBackup(r io.Reader) (*BackupManifest, error) { return backup.Verify(r) }

// backup writes a copy of the installation.
func (e *Engine) backup(ctx context.Context, w io.Writer) error {
	_, err := writeBackup(ctx, e.broker, e.o, w)
	return err
}

// Backup writes a copy of the installation of an external server, which o
// names, without an engine.
func Backup(ctx context.Context, o Options, w io.Writer) (*BackupManifest, error) {
	b, err := openBroker(ctx, o)
	if err != nil {
		return nil, err
	}
	defer b.Close(context.WithoutCancel(ctx))
	return writeBackup(ctx, b, o, w)
}

func writeBackup(ctx context.Context, b *broker.Broker, o Options, w io.Writer) (*BackupManifest, error) {
	principals, err := os.ReadFile(filepath.Join(o.Dir, broker.PrincipalsFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return backup.Write(ctx, connsOf(b), backup.Options{Version: o.version(), Principals: principals}, w)
}

func connsOf(b *broker.Broker) backup.Conns {
	return backup.Conns{events.AccountEngine: b.Engine, events.AccountWork: b.Work, events.AccountNotify: b.Notify, events.AccountExt: b.Ext}
}

// Restore restores a backup into the data directory of o, which must be empty,
// or into the external server that o names, which must have none of the
// streams. Every partition is stopped then: see package backup.
func Restore(ctx context.Context, o Options, file io.ReadSeeker) (m *BackupManifest, err error) {
	// A file that is no backup leaves nothing behind.
	if _, err := backup.Verify(file); err != nil {
		return nil, err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if !o.external() {
		if err := emptyDir(o.Dir); err != nil {
			return nil, err
		}
		o.Listen = broker.ListenNot
	}
	b, err := openBroker(ctx, o)
	if err != nil {
		return nil, err
	}
	// What was restored counts when the server has written it all.
	defer func() { err = errors.Join(err, b.Close(context.WithoutCancel(ctx))) }()
	m, err = backup.Read(ctx, file, backup.Into{Conns: connsOf(b), Replicas: b.Replicas(), Principals: func(content []byte) error {
		return writePrincipals(o.Dir, content)
	}})
	if err != nil {
		return nil, err
	}
	// Those that the backup has none of, of a newer version than its own.
	return m, b.MakeStreams(ctx)
}

// writePrincipals keeps the principals for the next start.
func writePrincipals(dir string, content []byte) error {
	path := filepath.Join(dir, broker.PrincipalsFile)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o600)
}

// emptyDir refuses a data directory that has something in it.
func emptyDir(dir string) error {
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(list) > 0 {
		return fmt.Errorf("data directory %s is not empty (it has %s): a backup is restored to an empty one, never over what is there", dir, list[0].Name())
	}
	return nil
}
