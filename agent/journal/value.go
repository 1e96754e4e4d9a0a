package journal

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"

	bolt "go.etcd.io/bbolt"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const sumLen = 4

func sum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

// put writes a value with its checksum in front.
func put(b *bolt.Bucket, key, value []byte) error {
	framed := make([]byte, sumLen, sumLen+len(value))
	binary.BigEndian.PutUint32(framed, sum(key, value))
	return b.Put(key, append(framed, value...))
}

// get gives the value of a key, nil when there is none. The bytes belong to
// bbolt and are gone with the transaction.
func get(b *bolt.Bucket, key []byte) ([]byte, error) {
	framed := b.Get(key)
	if framed == nil {
		return nil, nil
	}
	return open1(nil, key, framed)
}

// open1 takes one value out of its frame.
func open1(bucket, key, framed []byte) ([]byte, error) {
	if len(framed) < sumLen || binary.BigEndian.Uint32(framed) != sum(key, framed[sumLen:]) {
		return nil, fmt.Errorf("%w: checksum of %s %x does not match", ErrCorrupt, bucket, key)
	}
	return framed[sumLen:], nil
}

func getNumber(b *bolt.Bucket, key []byte) (uint64, error) {
	v, err := get(b, key)
	if err != nil || v == nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("%w: number %s has %d bytes", ErrCorrupt, key, len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}

// raise sets a number unless it is higher already.
func raise(b *bolt.Bucket, key []byte, to uint64) error {
	now, err := getNumber(b, key)
	if err != nil || now >= to {
		return err
	}
	return put(b, key, number(to))
}

func putJSON(b *bolt.Bucket, key []byte, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return put(b, key, text)
}

func getJSON(b *bolt.Bucket, key []byte, v any) (bool, error) {
	text, err := get(b, key)
	if err != nil || text == nil {
		return false, err
	}
	if err := json.Unmarshal(text, v); err != nil {
		return false, fmt.Errorf("%w: %x: %w", ErrCorrupt, key, err)
	}
	return true, nil
}
