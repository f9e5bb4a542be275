package events

import (
	"crypto/ed25519"
	"fmt"
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
