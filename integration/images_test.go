package integration_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	moby "github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
)

// withoutReaper keeps testcontainers from wanting its own image, which cannot
// be pulled here; what the tests start they remove themselves.
var withoutReaper = sync.OnceFunc(func() { os.Setenv("TESTCONTAINERS_RYUK_DISABLED", "true") })

// dockerClient reaches the Docker engine, or says that there is none.
func dockerClient(t testing.TB) *testcontainers.DockerClient {
	t.Helper()
	if runtime.GOOS != "linux" {
		missing(t, "docker", "the images are built for the Linux engine on this host")
	}
	withoutReaper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cli, err := testcontainers.NewDockerClientWithOpts(ctx)
	if err != nil {
		missing(t, "docker", err.Error())
	}
	t.Cleanup(func() { cli.Close() })
	info, err := cli.Info(ctx, moby.InfoOptions{})
	if err != nil {
		missing(t, "docker", err.Error())
	}
	publishedHere(info.Info.Name)
	return cli
}

// publishedHere tells testcontainers that an engine of this very host
// publishes its ports here. In a container it would take the engine for one
// outside, whatever runs inside.
func publishedHere(engineHost string) {
	const override = "TESTCONTAINERS_HOST_OVERRIDE"
	if host, err := os.Hostname(); err == nil && host == engineHost && os.Getenv(override) == "" {
		os.Setenv(override, "localhost")
	}
}

// layerFile is a file or directory of an image. Its owner is the images' user.
type layerFile struct {
	name    string // without a slash in front; with one behind for a directory
	mode    int64
	content []byte
}

const imageUser = 65532

// loadImage makes an image FROM scratch of files and gives it to the Docker
// engine, under a name of this test run that is removed with the test.
func loadImage(t testing.TB, cli *testcontainers.DockerClient, title string, entrypoint []string, files ...layerFile) string {
	t.Helper()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(tarOf(t, files))), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Entrypoint, config.Config.User, config.Config.StopSignal = entrypoint, "65532:65532", "SIGTERM"
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag("penstock-test/"+title+":"+randomName(), name.WithDefaultRegistry(""))
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	if err := tarball.Write(tag, img, &packed); err != nil {
		t.Fatal(err)
	}
	result, err := cli.ImageLoad(t.Context(), &packed)
	if err != nil {
		t.Fatal(err)
	}
	defer result.Close()
	if said, err := io.ReadAll(result); err != nil || strings.Contains(string(said), `"error"`) {
		t.Fatalf("the Docker engine does not load the image %s: %v\n%s", tag, err, said)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := cli.ImageRemove(ctx, tag.String(), moby.ImageRemoveOptions{Force: true}); err != nil {
			t.Errorf("the image %s stays: %v", tag, err)
		}
	})
	return tag.String()
}

func tarOf(t testing.TB, files []layerFile) []byte {
	t.Helper()
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.content)), Uid: imageUser, Gid: imageUser, Typeflag: tar.TypeReg}
		if strings.HasSuffix(f.name, "/") {
			h.Typeflag, h.Size = tar.TypeDir, 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

// inRepository reads a file of the repository into an image.
func inRepository(t testing.TB, path, as string) layerFile {
	t.Helper()
	return onDisk(t, filepath.Join(repository(t), filepath.FromSlash(path)), as, 0o644)
}

func onDisk(t testing.TB, path, as string, mode int64) layerFile {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return layerFile{as, mode, p}
}

// binary is a program that was built for images.
func binary(t testing.TB, build func() (string, error), as string) layerFile {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return onDisk(t, path, as, 0o755)
}

func randomName() string {
	var b [6]byte
	rand.Read(b[:])
	return "t" + hex.EncodeToString(b[:])
}
