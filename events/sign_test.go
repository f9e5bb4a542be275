package events

import (
	"crypto/ed25519"
	"fmt"
	"strings"
	"testing"
)

func TestSignedGroupVerifiesAndNothingElseDoes(t *testing.T) {
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	other, _, _ := ed25519.GenerateKey(nil)
	for size := range 18 {
		bodies := make([][]byte, size)
		for i := range bodies {
			bodies[i] = fmt.Appendf(nil, `{"id":"task-%d"}`, i)
		}
		headers := SignGroup(key, bodies)
		if len(headers) != size {
			t.Fatalf("%d bodies, %d headers", size, len(headers))
		}
		for i, b := range bodies {
			if err := VerifySigned([]ed25519.PublicKey{other, pub}, b, headers[i]); err != nil {
				t.Errorf("group of %d, body %d: %v", size, i, err)
			}
			if VerifySigned([]ed25519.PublicKey{other}, b, headers[i]) == nil {
				t.Errorf("group of %d, body %d: verifies under another key", size, i)
			}
			if VerifySigned([]ed25519.PublicKey{pub}, append(b, ' '), headers[i]) == nil {
				t.Errorf("group of %d, body %d: verifies although changed", size, i)
			}
			if j := (i + 1) % size; j != i && VerifySigned([]ed25519.PublicKey{pub}, b, headers[j]) == nil {
				t.Errorf("group of %d: body %d verifies with the header of %d", size, i, j)
			}
		}
	}
}

func FuzzVerifySignedNeverPanicsAndNeverAccepts(f *testing.F) {
	pub, key, _ := ed25519.GenerateKey(nil)
	f.Add([]byte("a"), SignGroup(key, [][]byte{[]byte("b"), []byte("c")})[1])
	f.Add([]byte(""), "0.1..")
	f.Fuzz(func(t *testing.T, body []byte, header string) {
		if string(body) != "b" && string(body) != "c" && VerifySigned([]ed25519.PublicKey{pub}, body, header) == nil {
			t.Fatalf("accepted %q with %q", body, header)
		}
	})
}

func TestVerifierThatKnowsAGroupAcceptsNothingElseForIt(t *testing.T) {
	pub, key, _ := ed25519.GenerateKey(nil)
	_, stranger, _ := ed25519.GenerateKey(nil)
	bodies := [][]byte{[]byte("a"), []byte("b"), []byte("c")}
	headers, forged := SignGroup(key, bodies), SignGroup(stranger, bodies)
	v := NewVerifier([]ed25519.PublicKey{pub})
	for round := range 2 {
		for i, b := range bodies {
			if err := v.Verify(b, headers[i]); err != nil {
				t.Errorf("round %d, body %d: %v", round, i, err)
			}
			if v.Verify(b, forged[i]) == nil {
				t.Errorf("round %d, body %d: accepted with a stranger's signature of the same group", round, i)
			}
			if v.Verify(append(b, 'x'), headers[i]) == nil {
				t.Errorf("round %d, body %d: accepted although changed", round, i)
			}
		}
	}
	// A group of its own size only: the root of three is no root of four.
	for i := range bodies {
		if v.Verify(bodies[i], strings.Replace(headers[i], ".3.", ".4.", 1)) == nil {
			t.Errorf("body %d: accepted as one of four", i)
		}
	}
}

func BenchmarkVerifyGroupOf256(b *testing.B) {
	pub, key, _ := ed25519.GenerateKey(nil)
	bodies := make([][]byte, 256)
	for i := range bodies {
		bodies[i] = fmt.Appendf(nil, `{"id":"task-%d"}`, i)
	}
	headers := SignGroup(key, bodies)
	v := NewVerifier([]ed25519.PublicKey{pub})
	for i := 0; b.Loop(); i = (i + 1) % len(bodies) {
		if err := v.Verify(bodies[i], headers[i]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSignGroupOf256(b *testing.B) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		b.Fatal(err)
	}
	bodies := make([][]byte, 256)
	for i := range bodies {
		bodies[i] = fmt.Appendf(nil, `{"id":"task %d","run":"r","workflow":"w","state":"one","kind":"bench"}`, i)
	}
	b.ReportAllocs()
	for b.Loop() {
		if headers := SignGroup(key, bodies); len(headers) != len(bodies) {
			b.Fatal(len(headers))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(bodies)), "ns/message")
}
