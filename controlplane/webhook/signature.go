package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// SignatureHeader is the header of a call that proves who made it:
//
//	Chom-Signature: t=1764078180,v1=5257a869...
//
// t is the second since 1970 in which the call was made, v1 is the HMAC-SHA256, in hex, of "t.body" (the digits of t, a dot, the
// body as it came) under the webhook's secret. For a day after a rotation there are two v1: one for each secret.
const SignatureHeader = "Chom-Signature"

// Tolerance is how old a call may be: what was recorded on the way and is sent again later is refused. Within it a
// receiver knows repetitions by the event's id.
const Tolerance = 5 * time.Minute

// ErrSignature says that a call is not from this control plane, not whole, or too old.
var ErrSignature = errors.New("the signature is not valid")

// Verify is for receivers: it returns nil when one of the signatures in the header was made with the secret over this very
// body within the Tolerance of now, else ErrSignature.
func Verify(secret, header string, body []byte, now time.Time) error {
	var at string
	var given [][]byte
	for part := range strings.SplitSeq(header, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch name {
		case "t":
			at = value
		case "v1":
			if mac, err := hex.DecodeString(value); err == nil {
				given = append(given, mac)
			}
		}
	}
	seconds, err := strconv.ParseInt(at, 10, 64)
	if err != nil || now.Sub(time.Unix(seconds, 0)).Abs() > Tolerance {
		return ErrSignature
	}
	want := mac(secret, at, body)
	for _, one := range given {
		if hmac.Equal(one, want) {
			return nil
		}
	}
	return ErrSignature
}

// sign makes the header of a call.
func sign(secrets []string, body []byte, now time.Time) string {
	at := strconv.FormatInt(now.Unix(), 10)
	header := "t=" + at
	for _, secret := range secrets {
		header += fmt.Sprintf(",v1=%x", mac(secret, at, body))
	}
	return header
}

func mac(secret, at string, body []byte) []byte {
	m := hmac.New(sha256.New, []byte(secret))
	m.Write([]byte(at + "."))
	m.Write(body)
	return m.Sum(nil)
}
