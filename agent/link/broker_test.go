package link

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	linkv1 "chom.dev/proto/gen/chom/link/v1"
	"chom.dev/proto/gen/chom/link/v1/linkv1connect"
)

// hanging is a control plane that answers no brokered call. It is a fake: a real
// connection does not live in a bubble.
type hanging struct {
	linkv1connect.LinkServiceClient
}

func (hanging) IssuePlatformCertificate(ctx context.Context, _ *linkv1.IssuePlatformCertificateRequest) (*linkv1.IssuePlatformCertificateResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (hanging) FetchCertificate(ctx context.Context, _ *linkv1.FetchCertificateRequest) (*linkv1.FetchCertificateResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (hanging) ReportBackup(ctx context.Context, _ *linkv1.ReportBackupRequest) (*linkv1.ReportBackupResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (hanging) PresentChallenge(ctx context.Context, _ *linkv1.PresentChallengeRequest) (*linkv1.PresentChallengeResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (hanging) RemoveChallenge(ctx context.Context, _ *linkv1.RemoveChallengeRequest) (*linkv1.RemoveChallengeResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestBrokered(t *testing.T) {
	calls := map[string]func(context.Context, *Link) error{
		"issue": func(ctx context.Context, l *Link) error {
			_, err := l.IssuePlatformCertificate(ctx, new(linkv1.IssuePlatformCertificateRequest))
			return err
		},
		"fetch": func(ctx context.Context, l *Link) error {
			_, err := l.FetchCertificate(ctx, new(linkv1.FetchCertificateRequest))
			return err
		},
		"report": func(ctx context.Context, l *Link) error {
			_, err := l.ReportBackup(ctx, new(linkv1.ReportBackupRequest))
			return err
		},
		"present": func(ctx context.Context, l *Link) error {
			_, err := l.PresentChallenge(ctx, new(linkv1.PresentChallengeRequest))
			return err
		},
		"remove": func(ctx context.Context, l *Link) error {
			_, err := l.RemoveChallenge(ctx, new(linkv1.RemoveChallengeRequest))
			return err
		},
	}
	up := func() *Link {
		l := quiet()
		l.connected(&session{Link: l, client: hanging{}})
		return l
	}
	for name, within := range map[string]time.Duration{"issue": 20 * time.Second, "fetch": 20 * time.Second, "report": 20 * time.Second, "present": 150 * time.Second, "remove": 150 * time.Second} {
		t.Run(name+" is given its time", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				if err := calls[name](t.Context(), up()); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != within {
					t.Errorf("after %s: %v", time.Since(start), err)
				}
			})
		})
	}
	for _, c := range []struct {
		first, second string
		after         time.Duration
	}{
		{"present", "issue", 20 * time.Second},
		{"remove", "fetch", 20 * time.Second},
		{"fetch", "issue", 40 * time.Second},
		{"issue", "present", 150 * time.Second},
		{"present", "remove", 300 * time.Second},
	} {
		t.Run(c.second+" while there is "+c.first, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := up()
				go calls[c.first](t.Context(), l)
				synctest.Wait()
				start := time.Now()
				if err := calls[c.second](t.Context(), l); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != c.after {
					t.Errorf("after %s, want %s: %v", time.Since(start), c.after, err)
				}
				synctest.Wait()
				time.Sleep(proveFor)
			})
		})
	}
	t.Run("who waits for a turn may give up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := up()
			go calls["present"](t.Context(), l)
			synctest.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			start := time.Now()
			if err := calls["remove"](ctx, l); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
				t.Errorf("after %s: %v", time.Since(start), err)
			}
			time.Sleep(proveFor)
		})
	})
	if err := calls["issue"](t.Context(), quiet()); !errors.Is(err, ErrDown) {
		t.Errorf("without a link: %v", err)
	}
}
