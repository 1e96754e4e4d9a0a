package db

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
)

// SetSealKey gives the key of Tx.Seal; it comes from outside the database, and
// every process that shares the database must have the same. It is set once,
// before the first transaction that seals.
func (d *DB) SetSealKey(key []byte) {
	key = append([]byte(nil), key...)
	d.sealKey.Store(&key)
}

// Seal gives a MAC over the parts and their borders. A row that carries it
// can't be made or changed by somebody who has nothing but the database. Without
// a key it is empty, and CheckSeal says no to everything.
func (tx *Tx) Seal(parts ...[]byte) []byte {
	if tx.sealKey == nil {
		return []byte{}
	}
	return Seal(tx.sealKey, parts...)
}

// Seal is Tx.Seal by a key of the caller's.
func Seal(key []byte, parts ...[]byte) []byte {
	m := hmac.New(sha256.New, key)
	for _, p := range parts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		m.Write(n[:])
		m.Write(p)
	}
	return m.Sum(nil)
}

// CheckSeal says whether seal was made over the same parts.
func (tx *Tx) CheckSeal(seal []byte, parts ...[]byte) bool {
	return tx.sealKey != nil && hmac.Equal(seal, tx.Seal(parts...))
}
