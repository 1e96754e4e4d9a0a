package accounttest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"testing"

	"github.com/fxamacker/cbor/v2"
)

// Device is an authenticator in software: it makes passkeys (ES256, without attestation) and answers with them, in the bytes that
// a browser sends. What it holds is only what a real one would: the key, the count, and whose it is.
type Device struct {
	// Origin is the page that the browser shows.
	Origin string
	// Unverified lets it answer without checking who holds it.
	Unverified bool
	// Count is how often it answered; each answer carries the next one.
	Count uint32

	id   []byte
	user []byte
	key  *ecdsa.PrivateKey
}

// Flags of authenticator data.
const (
	userPresent  = 1 << 0
	userVerified = 1 << 2
	hasKey       = 1 << 6
)

// Copy is the device's secret in the hands of somebody else.
func (d *Device) Copy() *Device {
	other := *d
	return &other
}

type binaryText []byte

func (b binaryText) MarshalText() ([]byte, error) {
	return []byte(base64.RawURLEncoding.EncodeToString(b)), nil
}

func (b *binaryText) UnmarshalText(text []byte) (err error) {
	*b, err = base64.RawURLEncoding.DecodeString(string(text))
	return err
}

// Create makes a passkey as the options ask (PublicKeyCredentialCreationOptionsJSON). It gives the browser's answer.
func (d *Device) Create(t testing.TB, options string) string {
	t.Helper()
	var asked struct {
		RP        struct{ ID string }
		User      struct{ ID binaryText }
		Challenge string
		Exclude   []struct{ ID binaryText } `json:"excludeCredentials"`
	}
	must(t, json.Unmarshal([]byte(options), &asked))
	for _, exclude := range asked.Exclude {
		if bytes.Equal(exclude.ID, d.id) {
			t.Fatal("the device has a passkey already")
		}
	}
	var err error
	d.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	d.id, d.user = make([]byte, 16), asked.User.ID
	rand.Read(d.id)

	point, err := d.key.PublicKey.Bytes() // 4, x, y
	must(t, err)
	cose, err := cbor.Marshal(map[int]any{1: 2, 3: -7, -1: 1, -2: point[1:33], -3: point[33:]})
	must(t, err)
	data := d.data(asked.RP.ID, hasKey)
	data = append(data, make([]byte, 16)...) // of no known make
	data = binary.BigEndian.AppendUint16(data, uint16(len(d.id)))
	data = append(append(data, d.id...), cose...)
	object, err := cbor.Marshal(map[string]any{"fmt": "none", "attStmt": map[string]any{}, "authData": data})
	must(t, err)
	return d.answer(t, map[string]any{
		"clientDataJSON": d.client(t, "webauthn.create", asked.Challenge), "attestationObject": binaryText(object), "transports": []string{"internal"},
	})
}

// Answer signs as the options ask (PublicKeyCredentialRequestOptionsJSON). It gives the browser's answer.
func (d *Device) Answer(t testing.TB, options string) string {
	t.Helper()
	var asked struct {
		RPID      string
		Challenge string
	}
	must(t, json.Unmarshal([]byte(options), &asked))
	d.Count++
	data, client := d.data(asked.RPID, 0), d.client(t, "webauthn.get", asked.Challenge)
	hash := sha256.Sum256(client)
	sum := sha256.Sum256(append(bytes.Clone(data), hash[:]...))
	signature, err := ecdsa.SignASN1(rand.Reader, d.key, sum[:])
	must(t, err)
	return d.answer(t, map[string]any{
		"clientDataJSON": client, "authenticatorData": binaryText(data), "signature": binaryText(signature), "userHandle": binaryText(d.user),
	})
}

// data is what a device signs of itself.
func (d *Device) data(rp string, flags byte) []byte {
	hash := sha256.Sum256([]byte(rp))
	flags |= userPresent
	if !d.Unverified {
		flags |= userVerified
	}
	return binary.BigEndian.AppendUint32(append(hash[:], flags), d.Count)
}

// client is what a browser adds of the page.
func (d *Device) client(t testing.TB, kind, challenge string) binaryText {
	t.Helper()
	text, err := json.Marshal(map[string]any{"type": kind, "challenge": challenge, "origin": d.Origin, "crossOrigin": false})
	must(t, err)
	return text
}

func (d *Device) answer(t testing.TB, response map[string]any) string {
	t.Helper()
	text, err := json.Marshal(map[string]any{
		"id": binaryText(d.id), "rawId": binaryText(d.id), "type": "public-key", "authenticatorAttachment": "platform",
		"clientExtensionResults": map[string]any{}, "response": response,
	})
	must(t, err)
	return string(text)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
