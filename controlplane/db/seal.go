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
// can't be made or changed by somebody who has nothing but the database, and
// says nothing about the parts. Without a key it is empty, and CheckSeal says no
// to everything.
func (tx *Tx) Seal(parts ...[]byte) []byte { return seal(tx.sealKey, parts) }

// Seal is Tx.Seal outside of a transaction.
func (d *DB) Seal(parts ...[]byte) []byte {
	if key := d.sealKey.Load(); key != nil {
		return seal(*key, parts)
	}
	return seal(nil, parts)
}

// CheckSeal says whether seal was made over the same parts.
func (tx *Tx) CheckSeal(seal []byte, parts ...[]byte) bool { return checkSeal(tx.sealKey, seal, parts) }

// CheckSeal says whether seal was made over the same parts.
func (d *DB) CheckSeal(seal []byte, parts ...[]byte) bool {
	key := d.sealKey.Load()
	return key != nil && checkSeal(*key, seal, parts)
}

func checkSeal(key, have []byte, parts [][]byte) bool {
	return key != nil && hmac.Equal(have, seal(key, parts))
}

// SetOrderKey gives the key of Tx.SealOrder, like SetSealKey. It follows the signer of orders, and changes with it.
func (d *DB) SetOrderKey(key []byte) {
	key = append([]byte(nil), key...)
	d.orderKey.Store(&key)
}

// SealOrder is Seal for what becomes an order to an agent.
func (tx *Tx) SealOrder(parts ...[]byte) []byte { return seal(tx.orderKey, parts) }

// CheckOrder says whether seal was made by SealOrder over the same parts.
func (tx *Tx) CheckOrder(seal []byte, parts ...[]byte) bool {
	return checkSeal(tx.orderKey, seal, parts)
}

func seal(key []byte, parts [][]byte) []byte {
	if key == nil {
		return []byte{}
	}
	return Seal(key, parts...)
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
