package contract

import (
	"crypto/ed25519"
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
)

func TestSignedOrders(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	foreign, other, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	order := &orderv1.Order{
		Schema: OrderSchema, TaskId: NewTaskID().String(), ServerId: NewServerID().String(), Attempt: 1, Fence: 7,
		Kind: &orderv1.Order_Noop{Noop: &orderv1.Noop{Steps: 3}},
	}
	so, err := SignOrder(private, order)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("a trusted key's order comes out as it went in", func(t *testing.T) {
		got, err := VerifyOrder([]ed25519.PublicKey{foreign, public}, so)
		if err != nil || !proto.Equal(got, order) {
			t.Errorf("got %v, %v", got, err)
		}
	})
	refused := map[string]func(*orderv1.SignedOrder){
		"one changed bit anywhere": nil,
		"no signature":             func(so *orderv1.SignedOrder) { so.Signature = nil },
		"no order":                 func(so *orderv1.SignedOrder) { so.Order = nil },
		"another key's name":       func(so *orderv1.SignedOrder) { so.KeyId = KeyID(foreign) },
		"a signature without the domain": func(so *orderv1.SignedOrder) {
			so.Signature = ed25519.Sign(private, so.Order)
		},
		"a foreign key that names the trusted one": func(so *orderv1.SignedOrder) {
			so.Signature = ed25519.Sign(other, signed(so.Order))
		},
	}
	for name, change := range refused {
		t.Run("refused: "+name, func(t *testing.T) {
			if change != nil {
				bad := proto.CloneOf(so)
				change(bad)
				if _, err := VerifyOrder([]ed25519.PublicKey{public}, bad); !errors.Is(err, ErrSignature) {
					t.Errorf("got %v", err)
				}
				return
			}
			for _, part := range [][]byte{so.Order, so.Signature} {
				for i := range 8 * len(part) {
					part[i/8] ^= 1 << (i % 8)
					if _, err := VerifyOrder([]ed25519.PublicKey{public}, so); !errors.Is(err, ErrSignature) {
						t.Fatalf("bit %d: %v", i, err)
					}
					part[i/8] ^= 1 << (i % 8)
				}
			}
		})
	}
	t.Run("refused: an untrusted signer", func(t *testing.T) {
		for _, keys := range [][]ed25519.PublicKey{nil, {foreign}, {nil}} {
			if _, err := VerifyOrder(keys, so); !errors.Is(err, ErrSignature) {
				t.Errorf("keys %v: %v", keys, err)
			}
		}
	})
	t.Run("a layout of another time is neither signed nor accepted", func(t *testing.T) {
		later := proto.CloneOf(order)
		later.Schema = OrderSchema + 1
		if _, err := SignOrder(private, later); !errors.Is(err, ErrOrderSchema) {
			t.Errorf("sign: %v", err)
		}
		b, err := proto.Marshal(later)
		if err != nil {
			t.Fatal(err)
		}
		forged := &orderv1.SignedOrder{Order: b, Signature: ed25519.Sign(private, signed(b)), KeyId: KeyID(public)}
		if _, err := VerifyOrder([]ed25519.PublicKey{public}, forged); !errors.Is(err, ErrOrderSchema) {
			t.Errorf("verify: %v", err)
		}
	})
	t.Run("the same order gives the same bytes", func(t *testing.T) {
		again, err := SignOrder(private, order)
		if err != nil || !proto.Equal(again, so) {
			t.Errorf("got %v, %v", again, err)
		}
	})
}

func TestManifest(t *testing.T) {
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	m := &backupv1.Manifest{Schema: ManifestSchema, BackupId: NewBackupID().String(), Sequence: 7}
	sm, err := SignManifest(key, m)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := VerifyManifest([]ed25519.PublicKey{public}, sm); err != nil || !proto.Equal(got, m) {
		t.Fatalf("verify: %v, %v", got, err)
	}
	for i := range sm.Manifest {
		changed := proto.CloneOf(sm)
		changed.Manifest[i] ^= 1
		if _, err := VerifyManifest([]ed25519.PublicKey{public}, changed); !errors.Is(err, ErrManifest) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
	// A signature over an order is none over a manifest, were their bytes the same.
	order := proto.CloneOf(sm)
	order.Signature = ed25519.Sign(key, signed(sm.Manifest))
	if _, err := VerifyManifest([]ed25519.PublicKey{public}, order); !errors.Is(err, ErrManifest) {
		t.Errorf("an order's signature: %v", err)
	}
	other, _, _ := ed25519.GenerateKey(nil)
	if _, err := VerifyManifest([]ed25519.PublicKey{other}, sm); !errors.Is(err, ErrManifest) {
		t.Errorf("another key: %v", err)
	}
	m.Schema = 2
	if _, err := SignManifest(key, m); err == nil {
		t.Error("an unknown layout is signed")
	}
}
