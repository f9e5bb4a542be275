package workers_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"testing"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
	"github.com/penstock-cd/penstock/workers/exec"
)

func keyPair(t *testing.T) (string, ed25519.PrivateKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(public), private
}

func TestWorkerWithoutKeysTrustsThoseThatTheEngineTellsIt(t *testing.T) {
	w := newWire(t)
	w.told, w.cred.TaskKeys = w.cred.TaskKeys, nil
	_, forger := keyPair(t)
	w.publish(forger, w.task("forged", nil))
	w.publish(w.key, w.task("real", nil))
	stop := start(t, workers.Options{Conn: w.connect(), Kinds: map[string]workers.Handler{wireKind: exec.Handler{Args: []string{"true"}}}})
	defer stop()
	if got := w.result("real"); got.Outcome != events.Succeeded {
		t.Errorf("the engine's task: %+v", got)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.granted["forged"] != "" {
		t.Error("a task that another key signed was begun")
	}
}

func TestKeysInTheCredentialAreNotReplacedByAnAnswer(t *testing.T) {
	w := newWire(t)
	other, forger := keyPair(t)
	w.told = []string{other}
	stop := start(t, workers.Options{Conn: w.connect(), Kinds: map[string]workers.Handler{wireKind: exec.Handler{Args: []string{"true"}}}})
	defer stop()
	w.until("a hello", func() bool { return len(w.hellos) > 0 })
	w.publish(forger, w.task("forged", nil))
	w.publish(w.key, w.task("real", nil))
	w.result("real")
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.granted["forged"] != "" {
		t.Error("a task that another key signed was begun")
	}
}

func TestATaskOfAnEngineThatHasJustComeIsNotRefused(t *testing.T) {
	w := newWire(t)
	w.told, w.cred.TaskKeys = w.cred.TaskKeys, nil
	stop := start(t, workers.Options{Conn: w.connect(), Kinds: map[string]workers.Handler{wireKind: exec.Handler{Args: []string{"true"}}}})
	defer stop()
	w.publish(w.key, w.task("first", nil))
	w.result("first")
	public, key := keyPair(t)
	w.publish(key, w.task("early", nil)) // nobody knows the engine yet
	w.until("the worker asks who signed that", func() bool { return len(w.hellos) > 1 })
	w.mu.Lock()
	w.told = append(w.told, public)
	w.mu.Unlock()
	w.publish(key, w.task("next", nil))
	for _, task := range []string{"early", "next"} {
		if got := w.result(task); got.Outcome != events.Succeeded {
			t.Errorf("%s: %+v", task, got)
		}
	}
}
