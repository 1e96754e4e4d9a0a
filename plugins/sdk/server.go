package sdk

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	pluginv1 "chom.dev/proto/gen/chom/plugin/v1"
)

// server is the plugin's end of the wire: it checks what comes in, calls the
// author's code and turns what comes out into messages.
type server struct {
	pluginv1.UnimplementedSiteTypeServiceServer
	impl SiteType
}

// describe adds what only the SDK can know.
func describe(impl SiteType) Description {
	d := impl.Describe()
	_, d.OffersLogin = impl.(LoginOffer)
	return d
}

func (s *server) Describe(context.Context, *pluginv1.DescribeRequest) (_ *pluginv1.DescribeResponse, err error) {
	defer recovered(&err)
	return &pluginv1.DescribeResponse{Description: descriptionToWire(describe(s.impl))}, nil
}

func (s *server) Install(request *pluginv1.InstallRequest, stream pluginv1.SiteTypeService_InstallServer) (err error) {
	defer recovered(&err)
	site, err := siteFromWire(request.GetSite(), s.impl.Describe(), true)
	if err != nil {
		return toStatus(err)
	}
	state, err := s.impl.Install(stream.Context(), site, func(p Progress) {
		// An agent that no longer listens shows in the context; a lost line of
		// progress is not worth an error.
		_ = stream.Send(&pluginv1.InstallResponse{Event: &pluginv1.InstallResponse_Progress{Progress: progressToWire(p)}})
	})
	if err != nil {
		return toStatus(fmt.Errorf("install %s: %w", site.Handle, err))
	}
	return stream.Send(&pluginv1.InstallResponse{Event: &pluginv1.InstallResponse_State{State: stateToWire(state)}})
}

func (s *server) Update(ctx context.Context, request *pluginv1.UpdateRequest) (_ *pluginv1.UpdateResponse, err error) {
	defer recovered(&err)
	site, err := siteFromWire(request.GetSite(), s.impl.Describe(), false)
	if err != nil {
		return nil, toStatus(err)
	}
	state, err := s.impl.Update(ctx, site)
	if err != nil {
		return nil, toStatus(fmt.Errorf("update %s: %w", site.Handle, err))
	}
	return &pluginv1.UpdateResponse{State: stateToWire(state)}, nil
}

func (s *server) Check(ctx context.Context, request *pluginv1.CheckRequest) (_ *pluginv1.CheckResponse, err error) {
	defer recovered(&err)
	site, err := siteFromWire(request.GetSite(), s.impl.Describe(), false)
	if err != nil {
		return nil, toStatus(err)
	}
	state, err := s.impl.Check(ctx, site)
	if err != nil {
		return nil, toStatus(fmt.Errorf("check %s: %w", site.Handle, err))
	}
	return &pluginv1.CheckResponse{State: stateToWire(state)}, nil
}

func (s *server) ArmLogin(ctx context.Context, request *pluginv1.ArmLoginRequest) (_ *pluginv1.ArmLoginResponse, err error) {
	defer recovered(&err)
	offer, ok := s.impl.(LoginOffer)
	if !ok {
		return nil, toStatus(ErrUnsupported)
	}
	site, err := siteFromWire(request.GetSite(), s.impl.Describe(), false)
	if err != nil {
		return nil, toStatus(err)
	}
	login, err := loginFromWire(request, time.Now())
	if err != nil {
		return nil, toStatus(err)
	}
	if err := offer.ArmLogin(ctx, site, login); err != nil {
		return nil, toStatus(fmt.Errorf("arm login to %s: %w", site.Handle, err))
	}
	return &pluginv1.ArmLoginResponse{}, nil
}

// loginFromWire refuses a login that lives too long or no longer.
func loginFromWire(r *pluginv1.ArmLoginRequest, now time.Time) (Login, error) {
	if len(r.GetTokenSha256()) != sha256.Size {
		return Login{}, &FieldError{Field: "token_sha256", Reason: "must be 32 bytes"}
	}
	l := Login{TokenSHA256: [sha256.Size]byte(r.GetTokenSha256()), Expires: time.Unix(r.GetExpireTimeUnix(), 0)}
	if life := l.Expires.Sub(now); life <= 0 || life > MaxLoginLifetime {
		return Login{}, &FieldError{Field: "expire_time_unix", Reason: "must be within the next 60 seconds"}
	}
	return l, nil
}

// recovered turns a panic of the author's code into an error: one call fails,
// the process lives, the stack is in the log.
func recovered(err *error) {
	if p := recover(); p != nil {
		slog.Error("plugin panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		*err = toStatus(fmt.Errorf("the plugin panicked: %v", p))
	}
}
