// Package bearer makes and checks the texts by which whoever holds them may act: API tokens, invitations.
//
//	chompat_ 0aB...z 4kQ2xY
//	|        |       +----- CRC-32 (IEEE) of all before it, 6 characters in base 62
//	|        +------------- 256 random bits, 43 characters in base 62
//	+---------------------- what it is, so that none is taken for another kind
//
// The alphabet is [0-9A-Za-z], so that a double click selects all of it, and a scanner for leaked secrets finds it by
// "chom[a-z]+_[0-9A-Za-z]{49}" and knows by the checksum, without asking anybody, that it is one.
//
// A text is shown once. What is stored is its hash.
package bearer

import (
	"crypto/rand"
	"crypto/sha256"
	"hash/crc32"
	"math/big"
	"strings"
)

const (
	secretLength   = 43 // 62^43 > 2^256
	checksumLength = 6  // 62^6 > 2^32

	// Length is that of a text without its prefix.
	Length = secretLength + checksumLength
)

// New makes a text that begins with a prefix, and the hash by which it is found again. A fast hash is enough for 256 random
// bits.
func New(prefix string) (text string, hash []byte) {
	var b [32]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	text = prefix + base62(new(big.Int).SetBytes(b[:]), secretLength)
	text += checksum(text)
	return text, hashOf(text)
}

// Hash gives the hash of a text that New made with a prefix; false for any other text.
func Hash(prefix, text string) (hash []byte, ok bool) {
	rest, found := strings.CutPrefix(text, prefix)
	if !found || len(rest) != Length {
		return nil, false
	}
	at := len(text) - checksumLength
	if text[at:] != checksum(text[:at]) {
		return nil, false
	}
	return hashOf(text), true
}

func hashOf(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

func checksum(text string) string {
	return base62(big.NewInt(int64(crc32.ChecksumIEEE([]byte(text)))), checksumLength)
}

const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// base62 writes a number with leading zeros.
func base62(n *big.Int, length int) string {
	text := make([]byte, length)
	base, digit := big.NewInt(int64(len(digits))), new(big.Int)
	for i := length - 1; i >= 0; i-- {
		n.DivMod(n, base, digit)
		text[i] = digits[digit.Int64()]
	}
	return string(text)
}
