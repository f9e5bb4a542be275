package broker

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/penstock-cd/penstock/events/bus"
)

// What each kind of principal may publish and subscribe to, and what it must
// never be allowed, in the words of the server.
var (
	allowedCalls = map[string][]string{
		"bot": {
			"pub penstock.api.u.bot.run.list", "pub penstock.api.u.bot.event.list",
			"sub _INBOX.bot.abc.*", "sub penstock.live.>", "sub penstock.live.default.prod.*.*",
		},
		"admin": {
			"pub penstock.api.u.admin.run.start", "pub penstock.api.a.admin.auth.add",
			"sub _INBOX.admin.abc.*", "sub penstock.live.>",
		},
		"worker": {
			"pub penstock.api.w.default.default.worker.attempt.start",
			"pub penstock.output.r1.build.1",
			"pub $O.PENSTOCK_ARTIFACTS.C.abc", "pub $O.PENSTOCK_ARTIFACTS.M.abc",
			"pub $JS.API.STREAM.MSG.GET.OBJ_PENSTOCK_ARTIFACTS",
			"pub $JS.API.CONSUMER.INFO.PENSTOCK_TASKS.default-build",
			"pub $JS.API.CONSUMER.MSG.NEXT.PENSTOCK_TASKS.default-build",
			"pub $JS.API.CONSUMER.MSG.NEXT.PENSTOCK_TASKS.default-deploy",
			"pub $JS.API.CONSUMER.MSG.NEXT.PENSTOCK_TASKS.default-test",
			"pub $JS.API.CONSUMER.MSG.NEXT.PENSTOCK_TASKS.default-scan",
			"pub $JS.API.CONSUMER.MSG.NEXT.PENSTOCK_TASKS.default-notify",
			"pub $JS.API.CONSUMER.MSG.NEXT.PENSTOCK_TASKS.default-command",
			"pub $JS.ACK.PENSTOCK_TASKS.default-build.1.2.3.4.5",
			"pub $JS.ACK.d.h.PENSTOCK_TASKS.default-build.1.2.3.4.5",
			"sub _INBOX.worker.abc.*",
		},
		"ci": {"pub penstock.ev.default.ci.key.type", "sub _INBOX.ci.abc.*"},
	}

	deniedToEverybody = []string{
		"pub $JS.API.INFO", "pub $JS.API.STREAM.LIST", "pub $JS.API.STREAM.CREATE.X",
		"pub $JS.API.STREAM.PURGE.PENSTOCK_TASKS", "pub $JS.API.STREAM.DELETE.PENSTOCK_INGRESS_default",
		"pub $JS.API.STREAM.MSG.DELETE.OBJ_PENSTOCK_ARTIFACTS", "pub $JS.API.STREAM.UPDATE.PENSTOCK_TASKS",
		"pub $JS.API.STREAM.SNAPSHOT.PENSTOCK_LOG", "pub $JS.API.STREAM.RESTORE.PENSTOCK_LOG",
		"pub $JS.API.DIRECT.GET.PENSTOCK_TASKS", "pub $JS.API.DIRECT.GET.OBJ_PENSTOCK_ARTIFACTS",
		"pub $JS.API.DIRECT.GET.OBJ_PENSTOCK_ARTIFACTS.$O.PENSTOCK_ARTIFACTS.M.abc",
		"pub $JS.API.STREAM.MSG.GET.PENSTOCK_TASKS", "pub $JS.API.STREAM.MSG.GET.PENSTOCK_LOGS",
		"pub $JS.API.STREAM.MSG.GET.PENSTOCK_INGRESS_default", "pub $JS.API.STREAM.MSG.GET.PENSTOCK_LOG",
		"pub $JS.API.CONSUMER.CREATE.PENSTOCK_TASKS", "pub $JS.API.CONSUMER.CREATE.OBJ_PENSTOCK_ARTIFACTS.x",
		"pub $JS.API.CONSUMER.DURABLE.CREATE.PENSTOCK_TASKS.x", "pub $JS.API.CONSUMER.DELETE.PENSTOCK_TASKS.default-build",
		"pub $JS.API.CONSUMER.MSG.NEXT.PENSTOCK_TASKS.gpu-build", "pub $JS.API.CONSUMER.INFO.PENSTOCK_TASKS.gpu-build",
		"pub $JS.ACK.PENSTOCK_TASKS.gpu-build.1.2.3.4.5", "pub $JS.ACK.>", "pub $JS.API.>",
		"pub penstock.task.default.build.0", "pub penstock.log.0.run.r1", "pub penstock.own.0", "pub penstock.vp.0", "pub penstock.vp.255", "pub penstock.engines.epoch",
		"pub penstock.ckpt.0", "pub penstock.audit.202601.7", "pub penstock.out.default.prod.app.x", "pub penstock.live.default.prod.app.x",
		"pub penstock.ev.default.other.key.type", "pub penstock.api.u.carol.run.decide", "pub penstock.api.a.carol.auth.add",
		"pub penstock.api.w.default.gpu.worker.attempt.finish", "pub penstock.api.w.default.default.other.attempt.finish",
		"pub $KV.PENSTOCK_DEFS.x", "pub $SYS.REQ.SERVER.PING", "pub _INBOX.carol.abc.1", "pub $SRV.PING",
		"sub >", "sub _INBOX.>", "sub _INBOX.*.>", "sub _INBOX.carol.>", "sub penstock.>", "sub penstock.api.>", "sub penstock.api.u.>",
		"sub penstock.vp.*", "sub penstock.vp.0", "sub penstock.engines.>", "sub penstock.task.>", "sub penstock.output.>", "sub penstock.ev.>", "sub penstock.out.>", "sub $JS.EVENT.>", "sub $SYS.>", "sub $JS.API.>",
		"sub _R_.>",
	}

	deniedTo = map[string][]string{
		"bot": {"pub penstock.api.a.bot.auth.add", "pub penstock.api.u.admin.run.start", "pub penstock.ev.default.ci.k.t",
			"pub $JS.API.CONSUMER.MSG.NEXT.PENSTOCK_TASKS.default-build", "pub penstock.output.r1.build.1"},
		"admin":  {"pub penstock.api.u.bot.run.decide", "pub penstock.api.a.bot.auth.add", "pub $JS.API.STREAM.MSG.GET.OBJ_PENSTOCK_ARTIFACTS"},
		"worker": {"pub penstock.api.u.worker.run.decide", "pub penstock.ev.default.ci.k.t", "sub penstock.live.>"},
		"ci":     {"pub penstock.api.u.ci.run.decide", "pub penstock.output.r1.build.1", "sub penstock.live.>", "sub penstock.ev.default.ci.>"},
	}
)

func TestPermissionMatrix(t *testing.T) {
	shipped(t, func(t *testing.T, in *installation) {
		for name, cred := range map[string]bus.Credential{"bot": in.bot, "admin": in.admin, "worker": in.worker, "ci": in.ci} {
			nc := connect(t, cred)
			for _, call := range allowedCalls[name] {
				if err := try(t, nc, call); err != nil {
					t.Errorf("%s: %s: %v, must be allowed", name, call, err)
				}
			}
			for _, call := range append(deniedTo[name], deniedToEverybody...) {
				if err := try(t, nc, call); err == nil {
					t.Errorf("%s: %s is allowed", name, call)
				}
			}
		}
	})
}

// try makes a call on a connection and gives the server's objection, which
// comes before the answer to the ping of a flush.
func try(t *testing.T, nc *nats.Conn, call string) error {
	t.Helper()
	verb, subject := call[:3], call[4:]
	objection := map[string]string{"pub": "Publish to ", "sub": "Subscription to "}[verb] + `"` + subject + `"`
	if verb == "pub" {
		if err := nc.Publish(subject, []byte("{}")); err != nil {
			return err
		}
	} else {
		sub, err := nc.SubscribeSync(subject)
		if err != nil {
			return err
		}
		defer sub.Unsubscribe()
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := nc.LastError(); err != nil && strings.Contains(strings.ToLower(err.Error()), strings.ToLower(objection)) {
		return err
	}
	return nil
}
