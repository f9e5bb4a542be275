package events

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// HeaderSignature carries, on a task message, the proof that the engine wrote
// it: "<index>.<size>.<signature>.<path>" with base64 parts, path elements
// separated by ','.
const HeaderSignature = "Penstock-Signature"

// SignGroup signs the bodies of a group of messages with one signature, over
// the root of the Merkle tree of the bodies. It gives the value of
// HeaderSignature for each body. Signing costs the same for one as for many.
func SignGroup(key ed25519.PrivateKey, bodies [][]byte) []string {
	if len(bodies) == 0 {
		return nil
	}
	level := make([][32]byte, len(bodies))
	for i, b := range bodies {
		level[i] = leafHash(b)
	}
	levels := [][][32]byte{level}
	for len(level) > 1 {
		next := make([][32]byte, 0, (len(level)+1)/2)
		for i := 0; i < len(level); i += 2 {
			if i+1 == len(level) {
				next = append(next, level[i])
			} else {
				next = append(next, nodeHash(level[i], level[i+1]))
			}
		}
		level = next
		levels = append(levels, level)
	}
	sig := encode64(ed25519.Sign(key, rootMessage(level[0], len(bodies))))
	out := make([]string, len(bodies))
	var b []byte
	for i := range bodies {
		b = strconv.AppendInt(b[:0], int64(i), 10)
		b = append(b, '.')
		b = strconv.AppendInt(b, int64(len(bodies)), 10)
		b = append(b, '.')
		b = append(b, sig...)
		out[i] = string(appendPath(append(b, '.'), levels, i))
	}
	return out
}

// appendPath appends what the hash of body i is folded with on the way to the
// root, with commas.
func appendPath(b []byte, levels [][][32]byte, i int) []byte {
	first := true
	for _, level := range levels[:len(levels)-1] {
		if sibling := i ^ 1; sibling < len(level) {
			if !first {
				b = append(b, ',')
			}
			first = false
			b = base64.RawStdEncoding.AppendEncode(b, level[sibling][:])
		}
		i /= 2
	}
	return b
}

// VerifySigned reports whether one of keys signed body, by the value of its
// HeaderSignature. More than one key is for the time in which keys change.
func VerifySigned(keys []ed25519.PublicKey, body []byte, header string) error {
	return NewVerifier(keys).Verify(body, header)
}

// Verifier verifies what was signed by one of its keys. It remembers the
// groups that it has seen last: the signature of a group is checked once, and
// every further message of it costs some hashes. It may be used by several
// goroutines at once.
type Verifier struct {
	keys []ed25519.PublicKey

	mu   sync.Mutex
	seen [rememberedGroups]signedRoot // a ring
	next int
}

// signedRoot is the root of a group with a signature that was found good.
type signedRoot struct {
	root [32]byte
	size int
	sig  string
}

const rememberedGroups = 64

// NewVerifier makes a verifier; without keys it accepts nothing.
func NewVerifier(keys []ed25519.PublicKey) *Verifier { return &Verifier{keys: keys} }

// Keys reports how many keys it accepts.
func (v *Verifier) Keys() int { return len(v.keys) }

// ErrUnknownKey says that none of the keys of a Verifier signed a message,
// which has a signature.
var ErrUnknownKey = errors.New("the signature is not the engine's")

// Verify reports whether one of the keys signed body, by the value of its
// HeaderSignature. The error is ErrUnknownKey when another one may have.
func (v *Verifier) Verify(body []byte, header string) error {
	parts := strings.SplitN(header, ".", 4)
	if len(parts) != 4 {
		return errors.New("the message carries no signature of the engine")
	}
	index, err1 := strconv.Atoi(parts[0])
	size, err2 := strconv.Atoi(parts[1])
	sig, err3 := base64.RawStdEncoding.DecodeString(parts[2])
	if err := errors.Join(err1, err2, err3); err != nil || index < 0 || index >= size {
		return errors.New("the signature header is malformed")
	}
	root, err := rootOf(leafHash(body), index, size, parts[3])
	if err != nil {
		return err
	}
	group := signedRoot{root, size, string(sig)}
	if v.knows(group) {
		return nil
	}
	for _, k := range v.keys {
		if ed25519.Verify(k, rootMessage(root, size), sig) {
			v.remember(group)
			return nil
		}
	}
	return ErrUnknownKey
}

func (v *Verifier) knows(g signedRoot) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Contains(v.seen[:], g)
}

func (v *Verifier) remember(g signedRoot) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.seen[v.next] = g
	v.next = (v.next + 1) % len(v.seen)
}

// rootOf folds the path of the leaf at index up to the root of a tree of size leaves.
func rootOf(h [32]byte, index, size int, path string) ([32]byte, error) {
	bad := errors.New("the signature's path does not fit its tree")
	var siblings []string
	if path != "" {
		siblings = strings.Split(path, ",")
	}
	for size > 1 {
		if index^1 < size {
			if len(siblings) == 0 {
				return h, bad
			}
			p, err := base64.RawStdEncoding.DecodeString(siblings[0])
			if err != nil || len(p) != len(h) {
				return h, bad
			}
			siblings = siblings[1:]
			if index%2 == 0 {
				h = nodeHash(h, [32]byte(p))
			} else {
				h = nodeHash([32]byte(p), h)
			}
		}
		index, size = index/2, (size+1)/2
	}
	if len(siblings) > 0 {
		return h, bad
	}
	return h, nil
}

func encode64(p []byte) string { return base64.RawStdEncoding.EncodeToString(p) }

// The prefixes keep a leaf from passing as a node and a root from passing as
// anything else that the same key may sign one day.
func leafHash(b []byte) [32]byte { return sha256.Sum256(append([]byte{0}, b...)) }

func nodeHash(l, r [32]byte) [32]byte {
	var b [1 + 2*sha256.Size]byte
	b[0] = 1
	copy(b[1:], l[:])
	copy(b[1+sha256.Size:], r[:])
	return sha256.Sum256(b[:])
}

func rootMessage(root [32]byte, size int) []byte {
	return fmt.Appendf(nil, "penstock task group\n%d\n%x\n", size, root)
}
