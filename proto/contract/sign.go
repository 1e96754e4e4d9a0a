package contract

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
)

// ProtocolVersion is the version of the link's protocol. An agent says it in
// Hello; the control plane serves the versions from OldestProtocolVersion to
// ProtocolVersion.
//
//	1  the first
const (
	ProtocolVersion       = 1
	OldestProtocolVersion = 1
)

// OrderSchema is the layout of Order that SignOrder accepts and that an agent
// of this release knows.
const OrderSchema = 1

// orderDomain keeps a signature over an order from being valid over anything
// else that the same key may ever sign.
const orderDomain = "chom order v1\x00"

// maxOrder is the limit on SignedOrder.order in the proto.
const maxOrder = 262144

// Why an order is not acceptable.
var (
	ErrSignature   = errors.New("the order is not signed by a key that is trusted")
	ErrOrderSchema = errors.New("the order has a layout that is not known")
)

// SignOrder serializes an order and signs these bytes.
func SignOrder(key ed25519.PrivateKey, o *orderv1.Order) (*orderv1.SignedOrder, error) {
	if o.GetSchema() != OrderSchema {
		return nil, fmt.Errorf("sign order %s: %w", o.GetTaskId(), ErrOrderSchema)
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("sign order %s: %w", o.GetTaskId(), err)
	}
	if len(b) > maxOrder {
		return nil, fmt.Errorf("sign order %s: %d bytes, at most %d are allowed", o.GetTaskId(), len(b), maxOrder)
	}
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok || len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("sign order %s: not an Ed25519 key", o.GetTaskId())
	}
	return &orderv1.SignedOrder{Order: b, Signature: ed25519.Sign(key, signed(b)), KeyId: KeyID(public)}, nil
}

// VerifyOrder checks the signature against the trusted keys, then the layout,
// and gives the order. Nothing of an order is read before its signature holds.
// Whether it is meant for this server, still in time and above the highest
// fence is for the caller to find out.
func VerifyOrder(keys []ed25519.PublicKey, so *orderv1.SignedOrder) (*orderv1.Order, error) {
	if len(so.GetOrder()) == 0 || len(so.GetOrder()) > maxOrder {
		return nil, ErrSignature
	}
	valid := slices.ContainsFunc(keys, func(k ed25519.PublicKey) bool {
		return len(k) == ed25519.PublicKeySize && KeyID(k) == so.GetKeyId() &&
			ed25519.Verify(k, signed(so.GetOrder()), so.GetSignature())
	})
	if !valid {
		return nil, ErrSignature
	}
	o := &orderv1.Order{}
	if err := proto.Unmarshal(so.GetOrder(), o); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOrderSchema, err)
	}
	if o.GetSchema() != OrderSchema {
		return nil, fmt.Errorf("%w: %d", ErrOrderSchema, o.GetSchema())
	}
	return o, nil
}

// KeyID names a signer's key: the first 16 hexadecimal digits of its SHA-256.
func KeyID(k ed25519.PublicKey) string {
	sum := sha256.Sum256(k)
	return hex.EncodeToString(sum[:8])
}

func signed(order []byte) []byte { return append([]byte(orderDomain), order...) }

// ManifestSchema is the layout of Manifest that SignManifest accepts and that an
// agent of this release knows.
const ManifestSchema = 1

const manifestDomain = "chom backup v1\x00"

// maxManifest is the limit on SignedManifest.manifest in the proto.
const maxManifest = 200000

// ErrManifest says that a backup's manifest is not acceptable.
var ErrManifest = errors.New("the backup's manifest is not signed by a key that is trusted")

// SignManifest serializes a backup's manifest and signs these bytes.
func SignManifest(key ed25519.PrivateKey, m *backupv1.Manifest) (*backupv1.SignedManifest, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("sign manifest of backup %s: %w", m.GetBackupId(), err)
	}
	if m.GetSchema() != ManifestSchema || len(b) > maxManifest {
		return nil, fmt.Errorf("sign manifest of backup %s: layout %d, %d bytes", m.GetBackupId(), m.GetSchema(), len(b))
	}
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok || len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("sign manifest of backup %s: not an Ed25519 key", m.GetBackupId())
	}
	return &backupv1.SignedManifest{Manifest: b, Signature: ed25519.Sign(key, append([]byte(manifestDomain), b...)), KeyId: KeyID(public)}, nil
}

// SignManifestAgain signs the very bytes of a manifest with another key: what
// the next manifest says of its predecessor stays true.
func SignManifestAgain(key ed25519.PrivateKey, sm *backupv1.SignedManifest) (*backupv1.SignedManifest, error) {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok || len(key) != ed25519.PrivateKeySize {
		return nil, errors.New("sign manifest again: not an Ed25519 key")
	}
	return &backupv1.SignedManifest{
		Manifest: sm.GetManifest(), Signature: ed25519.Sign(key, append([]byte(manifestDomain), sm.GetManifest()...)), KeyId: KeyID(public),
	}, nil
}

// VerifyManifest checks the signature against the trusted keys, then the layout,
// and gives the manifest. Whether it is of the site at hand is for the caller to
// find out.
func VerifyManifest(keys []ed25519.PublicKey, sm *backupv1.SignedManifest) (*backupv1.Manifest, error) {
	if len(sm.GetManifest()) == 0 || len(sm.GetManifest()) > maxManifest {
		return nil, ErrManifest
	}
	valid := slices.ContainsFunc(keys, func(k ed25519.PublicKey) bool {
		return len(k) == ed25519.PublicKeySize && KeyID(k) == sm.GetKeyId() &&
			ed25519.Verify(k, append([]byte(manifestDomain), sm.GetManifest()...), sm.GetSignature())
	})
	if !valid {
		return nil, ErrManifest
	}
	m := &backupv1.Manifest{}
	if err := proto.Unmarshal(sm.GetManifest(), m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	if m.GetSchema() != ManifestSchema {
		return nil, fmt.Errorf("%w: layout %d", ErrManifest, m.GetSchema())
	}
	return m, nil
}

// RecoverDigest is what the key of an expired certificate signs in
// RecoverRequest.signature: SHA-256("chom recover v1\0" + csr).
func RecoverDigest(csr []byte) [sha256.Size]byte {
	return sha256.Sum256(append([]byte("chom recover v1\x00"), csr...))
}
