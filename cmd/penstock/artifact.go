package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/penstock-cd/penstock/events"
)

func (a *app) artifactCommand() *cobra.Command {
	var out string
	var force bool
	cmd := &cobra.Command{
		Use:   "artifact DIGEST",
		Short: "Fetch what a task stored: a binary, a bill of materials, a report",
		Long: `Fetches an artifact by its digest, as get and watch show it, and compares what
came with the digest. It goes to stdout, or to --out.`,
		Example: `  penstock artifact sha256:98a0d532ec12… --out shop
  penstock get k3f9 -o json | jq -r '.path[0].outputs.sbom' | xargs penstock artifact | jq .components`,
		Args: args("DIGEST"),
		RunE: func(cmd *cobra.Command, arg []string) error {
			if out == "" && terminal(a.stdout) {
				return usagef("artifact: it may be no text, and stdout is a terminal").withHint("name a file with --out, or pipe it")
			}
			if out == "" && a.output == "json" {
				return usagef("artifact: -o json tells what was written to a file; name it with --out")
			}
			if err := mayWrite(out, force); err != nil {
				return err
			}
			return a.with(cmd.Context(), func(s *session) error { return s.artifact(cmd, arg[0], out) })
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "write it to `FILE`")
	cmd.Flags().BoolVar(&force, "force", false, "replace the file if it is there")
	return cmd
}

// artifact writes an artifact to a file, or to stdout where none is named. A
// file that does not match the digest is removed again.
func (s *session) artifact(cmd *cobra.Command, digest, path string) error {
	to := s.app.stdout
	if path != "" {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		to = f
	}
	size, err := s.copyArtifact(cmd, digest, to)
	if err != nil {
		if path != "" {
			os.Remove(path)
		}
		return err
	}
	if s.app.output == "json" {
		return s.app.printJSON(map[string]any{"digest": digest, "size": size, "file": path})
	}
	if path != "" {
		s.app.note("wrote %d bytes to %s", size, path)
	}
	return nil
}

func (s *session) copyArtifact(cmd *cobra.Command, digest string, to io.Writer) (size uint64, err error) {
	h := sha256.New()
	for after := uint64(0); ; {
		var part events.ArtifactPart
		if _, err := s.ask(cmd.Context(), events.VerbArtifact, events.ReadArtifact{Digest: digest, After: after}, &part); err != nil {
			return size, err
		}
		if _, err := io.MultiWriter(to, h).Write(part.Data); err != nil {
			return size, err
		}
		size += uint64(len(part.Data))
		if part.Done {
			break
		}
		after = part.Next
	}
	if got := "sha256:" + hex.EncodeToString(h.Sum(nil)); got != digest {
		return size, fmt.Errorf("artifact %s: what came has the digest %s: it is damaged or was tampered with", digest, got)
	}
	return size, nil
}
