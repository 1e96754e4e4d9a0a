package task

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"chom.dev/proto/contract"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
)

// orderLife is how long an order may be accepted after it was signed: the time
// of an offer and as much again for a slow line. Agents bear with clocks that
// differ on top of it.
const orderLife = 2 * offerLease

// sign makes the order of the attempt that was just offered.
func (t *Task) sign(key ed25519.PrivateKey, parameters []byte, now time.Time) (*orderv1.SignedOrder, error) {
	o := &orderv1.Order{
		Schema:         contract.OrderSchema,
		TaskId:         t.ID,
		ServerId:       t.Server,
		OrganizationId: t.Organization,
		SiteId:         t.Site,
		Attempt:        t.Attempt,
		Fence:          uint64(t.fence),
		Nonce:          make([]byte, 16),
		IssueTime:      timestamppb.New(now),
		ExpireTime:     timestamppb.New(now.Add(orderLife)),
		// An attempt must not outlive its task.
		Timeout: durationpb.New(min(t.timeout, max(t.Deadline.Sub(now), time.Second))),
	}
	rand.Read(o.Nonce) // never fails: crypto/rand ends the program instead
	message, err := newParameters(t.Kind)
	if err != nil {
		return nil, err
	}
	if err := proto.Unmarshal(parameters, message); err != nil {
		return nil, fmt.Errorf("read parameters of task %s: %w", t.ID, err)
	}
	if err := setKind(o, t.Kind, message); err != nil {
		return nil, err
	}
	return contract.SignOrder(key, o)
}

// newParameters gives the empty message of a kind.
func newParameters(k Kind) (proto.Message, error) {
	switch k {
	case Noop:
		return &orderv1.Noop{}, nil
	case PrepareServer:
		return &orderv1.PrepareServer{}, nil
	case ConvergeSite:
		return &orderv1.ConvergeSite{}, nil
	case SiteLogin:
		return &orderv1.SiteLogin{}, nil
	case BackupSite:
		return &orderv1.BackupSite{}, nil
	case RestoreSite:
		return &orderv1.RestoreSite{}, nil
	case UndoRestore:
		return &orderv1.UndoRestore{}, nil
	case DrillSite:
		return &orderv1.DrillSite{}, nil
	default:
		return nil, fmt.Errorf("kind %q is not known", k)
	}
}

// setKind puts parameters into an order; they must be the kind's own.
func setKind(o *orderv1.Order, k Kind, parameters proto.Message) error {
	switch m := parameters.(type) {
	case *orderv1.Noop:
		if k == Noop && m != nil {
			o.Kind = &orderv1.Order_Noop{Noop: m}
			return nil
		}
	case *orderv1.PrepareServer:
		if k == PrepareServer && m != nil {
			o.Kind = &orderv1.Order_PrepareServer{PrepareServer: m}
			return nil
		}
	case *orderv1.ConvergeSite:
		if k == ConvergeSite && m != nil {
			o.Kind = &orderv1.Order_ConvergeSite{ConvergeSite: m}
			return nil
		}
	case *orderv1.SiteLogin:
		if k == SiteLogin && m != nil {
			o.Kind = &orderv1.Order_SiteLogin{SiteLogin: m}
			return nil
		}
	case *orderv1.BackupSite:
		if k == BackupSite && m != nil {
			o.Kind = &orderv1.Order_BackupSite{BackupSite: m}
			return nil
		}
	case *orderv1.RestoreSite:
		if k == RestoreSite && m != nil {
			o.Kind = &orderv1.Order_RestoreSite{RestoreSite: m}
			return nil
		}
	case *orderv1.UndoRestore:
		if k == UndoRestore && m != nil {
			o.Kind = &orderv1.Order_UndoRestore{UndoRestore: m}
			return nil
		}
	case *orderv1.DrillSite:
		if k == DrillSite && m != nil {
			o.Kind = &orderv1.Order_DrillSite{DrillSite: m}
			return nil
		}
	}
	return fmt.Errorf("parameters of type %T do not fit kind %q", parameters, k)
}
