// Package api is the people's door: the public API by Connect, gRPC and gRPC-Web, the health and install pages beside it, and
// nothing else. A file per service turns a request into a call of a noun and its result into an answer; what every
// call has in common is in door.go, who may do what in authz.go, and how a failure looks in errors.go. No rule about
// sites, servers or organizations lives here.
package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"

	"chom.dev/proto/gen/chom/account/v1/accountv1connect"
	"chom.dev/proto/gen/chom/fleet/v1/fleetv1connect"
	"chom.dev/proto/gen/chom/organization/v1/organizationv1connect"
	"chom.dev/proto/gen/chom/site/v1/sitev1connect"
	"chom.dev/proto/gen/chom/task/v1/taskv1connect"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fleet"
	"chom.dev/controlplane/install"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/site"
	"chom.dev/controlplane/task"
)

// Config is what the door opens to.
type Config struct {
	DB            *db.DB
	Log           *slog.Logger
	Metrics       prometheus.Registerer
	Accounts      *account.Accounts
	Organizations *organization.Organizations
	Fleet         *fleet.Fleet
	Sites         *site.Sites
	Tasks         *task.Tasks
	Packages      *install.Packages
	// Address is what pasted lines name.
	Address install.Address
	// Pin is the SHA-256 of the CA's public key, in hex; join tokens carry it.
	Pin   string
	Ready Ready
	// TLS says that the listener speaks it.
	TLS bool
	// Closing ends streams when it ends, so that the process can stop; nil means never.
	Closing context.Context
}

// New checks the authorization table and builds the handler of the people's listener.
func New(c Config) (http.Handler, error) {
	if err := checkRules(rules, methods()); err != nil {
		return nil, err
	}
	validator, err := newValidator()
	if err != nil {
		return nil, fmt.Errorf("open the people's door: %w", err)
	}
	counted, err := newMetrics(c.Metrics)
	if err != nil {
		return nil, fmt.Errorf("open the people's door: %w", err)
	}
	options := []connect.HandlerOption{connect.WithReadMaxBytes(maxBody), connect.WithCompressMinBytes(minCompressed)}
	d := &door{
		db: c.DB, log: c.Log, accounts: c.Accounts, organizations: c.Organizations,
		validator: validator, metrics: counted, errors: connect.NewErrorWriter(options...), closing: c.Closing,
	}
	if d.closing == nil {
		d.closing = context.Background()
	}
	guarded := append(options, connect.WithInterceptors(d))

	mux := http.NewServeMux()
	mount := func(path string, handler http.Handler) { mux.Handle(path, d.admit(handler)) }
	mount(accountv1connect.NewAccountServiceHandler(&accountService{c.Accounts}, guarded...))
	mount(organizationv1connect.NewOrganizationServiceHandler(&organizationService{c.Organizations}, guarded...))
	mount(fleetv1connect.NewServerServiceHandler(&serverService{c.DB, c.Fleet, c.Packages, c.Address, c.Pin}, guarded...))
	mount(sitev1connect.NewSiteServiceHandler(&siteService{c.Sites}, guarded...))
	mount(taskv1connect.NewTaskServiceHandler(&taskService{c.DB, c.Tasks}, guarded...))

	// Health and reflection are public: they say nothing that the source does not.
	mux.Handle(grpchealth.NewHandler(health{c.Ready}, options...))
	reflector := grpcreflect.NewStaticReflector(
		accountv1connect.AccountServiceName, organizationv1connect.OrganizationServiceName, fleetv1connect.ServerServiceName,
		sitev1connect.SiteServiceName, taskv1connect.TaskServiceName, grpchealth.HealthV1ServiceName,
	)
	mux.Handle(grpcreflect.NewHandlerV1(reflector, options...))
	mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector, options...))

	mountHealth(mux, d, c.Ready)
	c.Packages.Mount(mux)
	return secure(mux, c.TLS), nil
}

// newValidator compiles the rules of all requests now: a rule that does not compile must not wait for its first request.
func newValidator() (protovalidate.Validator, error) {
	var requests []proto.Message
	for _, method := range methods() {
		requests = append(requests, dynamicpb.NewMessage(method.Input()))
	}
	validator, err := protovalidate.New(protovalidate.WithMessages(requests...))
	if err != nil {
		return nil, fmt.Errorf("compile the rules of requests: %w", err)
	}
	for _, request := range requests {
		var broken *protovalidate.ValidationError
		if err := validator.Validate(request); err != nil && !errors.As(err, &broken) {
			return nil, fmt.Errorf("rules of %s: %w", request.ProtoReflect().Descriptor().FullName(), err)
		}
	}
	return validator, nil
}
