package events

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
)

// Accounts of the NATS server. An account is the security boundary: subject
// permissions alone do not prove who published, because whoever may use
// JetStream can have the server publish in its own name.
const (
	AccountEngine = "ENGINE"       // the record; engine instances only
	AccountWork   = "WORK_default" // tasks, artifacts and output of one worker trust domain
	AccountNotify = "NOTIFY"       // what happened, for subscribers
	AccountExt    = "EXT_default"  // events of one tenant's services
	AccountUsers  = "USERS"        // people and bots; no JetStream
	AccountSystem = "SYS"
)

// Streams, by purpose.
const (
	StreamIngress = "PENSTOCK_INGRESS_default"
	StreamLog     = "PENSTOCK_LOG"
	StreamCkpt    = "PENSTOCK_CKPT"
	StreamTasks   = "PENSTOCK_TASKS"
	StreamOut     = "PENSTOCK_OUT"
	StreamOutput  = "PENSTOCK_LOGS"
	StreamAudit   = "PENSTOCK_AUDIT"
	BucketDefs    = "PENSTOCK_DEFS"      // key-value: definitions by digest and what is current
	BucketAuth    = "PENSTOCK_AUTH"      // key-value: principals of an external server's installation
	BucketLive    = "PENSTOCK_LIVE"      // key-value: the engines that are alive
	BucketBlobs   = "PENSTOCK_ARTIFACTS" // object store: artifacts by digest
)

// The trust domain, pool and tenant of an installation that has one of each.
const (
	DefaultDomain = "default"
	DefaultPool   = "default"
	DefaultTenant = "default"
)

// Partitions is the number of virtual partitions, fixed for life: growing
// moves ownership, never keys.
const Partitions = 256

// Partition gives the virtual partition of an aggregate. aggregate is its
// type ("run", "env", "event"), id its identity.
func Partition(aggregate, id string) int {
	h := fnv.New32a()
	h.Write([]byte(aggregate + "/" + id))
	return int(h.Sum32() % Partitions)
}

// Token escapes s into one subject token: letters, digits, '_' and '-' stand
// for themselves, every other byte becomes "=" and two hex digits. The empty
// string becomes "=". It can be undone by Untoken.
func Token(s string) string {
	if s == "" {
		return "="
	}
	if plain(s) {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; plainByte(c) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	return b.String()
}

// plain reports whether a text is a token as it is.
func plain(s string) bool {
	for i := range len(s) {
		if !plainByte(s[i]) {
			return false
		}
	}
	return true
}

func plainByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

// Untoken undoes Token; it refuses every text that Token does not give.
func Untoken(t string) (string, error) {
	if t == "=" {
		return "", nil
	}
	if t != "" && plain(t) {
		return t, nil
	}
	var b strings.Builder
	for i := 0; i < len(t); i++ {
		if t[i] != '=' {
			b.WriteByte(t[i])
			continue
		}
		if i+2 >= len(t) {
			return "", fmt.Errorf("subject token %q: '=' needs two hex digits after it", t)
		}
		v, err := strconv.ParseUint(t[i+1:i+3], 16, 8)
		if err != nil {
			return "", fmt.Errorf("subject token %q: '=' needs two hex digits after it", t)
		}
		b.WriteByte(byte(v))
		i += 2
	}
	if s := b.String(); s != "" && Token(s) == t {
		return s, nil
	}
	return "", fmt.Errorf("subject token %q is not in its only form", t)
}

// LogSubject is the subject of an aggregate's records.
func LogSubject(aggregate, id string) string {
	return "penstock.log." + strconv.Itoa(Partition(aggregate, id)) + "." + aggregate + "." + Token(id)
}

// LogPartition reads the partition from the subject of a record; -1 when it is
// no record's.
func LogPartition(subject string) int {
	rest, ok := strings.CutPrefix(subject, "penstock.log.")
	if !ok {
		return -1
	}
	number, _, _ := strings.Cut(rest, ".")
	vp, err := strconv.Atoi(number)
	if err != nil {
		return -1 // somebody else writes into the stream
	}
	return vp
}

// MatchSubject reports whether a subject matches a filter, in which "*" stands
// for a token and a final ">" for one or more.
func MatchSubject(filter, subject string) bool {
	f, s := strings.Split(filter, "."), strings.Split(subject, ".")
	for i, token := range f {
		switch {
		case token == ">":
			return len(s) > i
		case i >= len(s), token != "*" && token != s[i]:
			return false
		}
	}
	return len(f) == len(s)
}

// OwnSubject is the subject of a partition's owner record, its fence.
func OwnSubject(vp int) string { return "penstock.own." + strconv.Itoa(vp) }

// CkptSubject is the subject of a partition's checkpoint.
func CkptSubject(vp int) string { return "penstock.ckpt." + strconv.Itoa(vp) }

// TaskSubject is the subject of the tasks of one kind for one pool.
func TaskSubject(pool, kind string, vp int) string {
	return "penstock.task." + Token(pool) + "." + Token(kind) + "." + strconv.Itoa(vp)
}

// TaskConsumer is the name of the durable consumer that a pool's workers of
// one kind share.
// The pool's own '-' is escaped, so that no two pairs have one name.
func TaskConsumer(pool, kind string) string {
	return strings.ReplaceAll(Token(pool), "-", "=2D") + "-" + Token(kind)
}

// OutputSubject is the subject of the output of one attempt of a task.
// state is the path of the state, for example "verify.test".
func OutputSubject(run, state, attempt string) string {
	return "penstock.output." + Token(run) + "." + Token(state) + "." + Token(attempt)
}

// IngressSubject is the subject on which a tenant's source publishes an event.
// key spreads events; Penstock puts the event's subject there. A key or type
// whose token would be longer than 255 bytes stands there as its sha256 in
// hex: the server ends a connection that sends a subject of some thousand bytes.
func IngressSubject(tenant, source, key, typ string) string {
	return "penstock.ev." + Token(tenant) + "." + Token(source) + "." + boundedToken(key) + "." + boundedToken(typ)
}

// maxToken is the longest token, in bytes, of a text that others choose freely.
const maxToken = 255

func boundedToken(s string) string {
	t := Token(s)
	if len(t) <= maxToken {
		return t
	}
	return fmt.Sprintf("%x", sha256.Sum256([]byte(s)))
}

// OutSubject is the subject of an outgoing event. env and app are "=" where
// the event has none; event is the type without its prefix and version, with
// dots escaped.
func OutSubject(tenant, env, app, event string) string {
	return "penstock.out." + Token(tenant) + "." + Token(env) + "." + Token(app) + "." + Token(event)
}

// LiveSubject is where subscribers see an outgoing event: the out subject
// with "penstock.live." in front.
func LiveSubject(out string) string {
	return "penstock.live." + strings.TrimPrefix(out, "penstock.out.")
}

// Subjects of the engine's API. A principal may publish only below its own
// subject, which the server enforces; so the token in the subject is who asks.
const (
	UserPrefix   = "penstock.api.u." // people and bots: penstock.api.u.<uid>.<verb>
	WorkerPrefix = "penstock.api.w." // workers: penstock.api.w.<domain>.<pool>.<uid>.<verb>
	AdminPrefix  = "penstock.api.a." // administrators: penstock.api.a.<uid>.<verb>
)

// UserSubject is where user uid sends a request; verb has dots, as in "run.start".
func UserSubject(uid, verb string) string { return UserPrefix + Token(uid) + "." + verb }

// AdminSubject is where administrator uid sends a request.
func AdminSubject(uid, verb string) string { return AdminPrefix + Token(uid) + "." + verb }

// WorkerSubject is where worker uid of a pool sends a request.
func WorkerSubject(domain, pool, uid, verb string) string {
	return WorkerPrefix + Token(domain) + "." + Token(pool) + "." + Token(uid) + "." + verb
}

// MessageID is the identity of an event for the server's duplicate window:
// the event id alone is unique only within its source.
func MessageID(tenant, source, id string) string {
	h := sha256.Sum256([]byte(tenant + "\x00" + source + "\x00" + id))
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(h[:20]))
}
