package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"chom.dev/plugins/sdk"
	"chom.dev/proto/contract"
)

// Session is one running plugin of one site. Calls may not overlap. Close it,
// always.
type Session struct {
	client  *sdk.Client
	plugin  *plugin.Client
	process *process
	limits  Limits
	logger  *slog.Logger
	sockets *socketDir
	hold    *os.File // closing it tells the plugin that the agent is gone
	tempDir string   // made by go-plugin, which forgets it when a start fails
	once    sync.Once
}

// endGrace is how long a plugin may take to end by itself after its last call;
// then it is killed. It has nothing left to do by then.
const endGrace = 500 * time.Millisecond

// killLimit bounds the killing: systemd answers in milliseconds, and after a
// SIGKILL only a process stuck in the kernel stays.
const killLimit = 10 * time.Second

// Open verifies and starts the plugin of the site type as the given user.
// readable are files that it must see, such as the application archive.
// The context bounds the start; the session lives on after it.
func (h *Host) Open(ctx context.Context, user User, t contract.SiteType, readable ...string) (*Session, error) {
	s, err := h.start(ctx, user, t, readable)
	if err != nil {
		return nil, fmt.Errorf("open plugin %s for site %s: %w", t, user.Handle, err)
	}
	return s, nil
}

func (h *Host) start(ctx context.Context, user User, t contract.SiteType, readable []string) (*Session, error) {
	if user.Handle.IsZero() || user.UID <= 0 || user.GID <= 0 {
		return nil, errors.New("a plugin needs a site's user, never root")
	}
	path, err := h.verify(t)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, h.limits.Start)
	defer cancel()
	dir, err := makeSocketDir(h.runtimeDir, user)
	if err != nil {
		return nil, err
	}
	hold, stdin, err := holdOpen()
	if err != nil {
		dir.remove(h.logger)
		return nil, err
	}
	logger := h.logger.With("site", user.Handle.String(), "plugin", t.String())
	p := &process{
		ctx:     ctx,
		starter: h.starter,
		command: Command{
			User:     user,
			Path:     path,
			Stdin:    stdin,
			Writable: []string{dir.path},
			Readable: readable,
			Limit:    h.limits.Session,
		},
		sockets: dir,
	}
	s := &Session{
		process: p,
		limits:  h.limits,
		logger:  logger,
		sockets: dir,
		hold:    hold,
	}
	client, err := s.connect(ctx, h.runtimeDir)
	stdin.Close() // the process has its own copy
	if err != nil {
		s.Close()
		return nil, err
	}
	s.client = client
	dir.seal(logger)
	return s, nil
}

// connect starts the process and shakes hands. go-plugin offers no context
// here, so its wait is bounded twice: by its own timeout and by a kill.
func (s *Session) connect(ctx context.Context, runtimeDir string) (*sdk.Client, error) {
	s.plugin = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  sdk.Handshake,
		VersionedPlugins: sdk.Plugins(nil),
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, tempDir string) (runner.Runner, error) {
			s.tempDir = tempDir
			s.process.command.Env = environment(cmd.Env, s.process.sockets.path)
			return s.process, nil
		},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		AutoMTLS:         true,
		SkipHostEnv:      true,
		StartTimeout:     s.limits.Start,
		Logger:           newLog(s.logger),
		// go-plugin makes a folder of its own there, which stays root's.
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: runtimeDir},
		GRPCDialOptions:  []grpc.DialOption{sdk.CallOptions(), grpc.WithStreamInterceptor(noBroker)},
	})
	stop := context.AfterFunc(ctx, func() { s.process.end(s.logger) })
	defer stop()
	protocol, err := s.plugin.Client()
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("handshake: %w", ctx.Err())
		}
		// The text may quote what the process printed.
		return nil, errors.New("handshake: " + printableLine(err.Error()))
	}
	dispensed, err := protocol.Dispense(sdk.PluginName)
	if err != nil {
		return nil, err
	}
	client, ok := dispensed.(*sdk.Client)
	if !ok {
		return nil, fmt.Errorf("unexpected plugin client %T", dispensed)
	}
	return client, nil
}

// noBroker refuses go-plugin's channel for further connections: nobody here
// uses it, and the other end could fill the agent's memory through it.
func noBroker(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if method == "/plugin.GRPCBroker/StartStream" {
		return nil, status.Error(codes.Unimplemented, "no broker")
	}
	return streamer(ctx, desc, cc, method, opts...)
}

// Describe asks the process; see sdk.Client.Describe.
func (s *Session) Describe(ctx context.Context) (sdk.Description, error) {
	ctx, cancel := context.WithTimeout(ctx, s.limits.Check)
	defer cancel()
	return s.client.Describe(ctx)
}

// Install means what sdk.SiteType says; progress may be nil and is called on
// this goroutine.
func (s *Session) Install(ctx context.Context, site sdk.Site, progress func(sdk.Progress)) (sdk.State, error) {
	ctx, cancel := context.WithTimeout(ctx, s.limits.Install)
	defer cancel()
	return s.client.Install(ctx, site, progress)
}

// Update means what sdk.SiteType says.
func (s *Session) Update(ctx context.Context, site sdk.Site) (sdk.State, error) {
	ctx, cancel := context.WithTimeout(ctx, s.limits.Update)
	defer cancel()
	return s.client.Update(ctx, site)
}

// Check means what sdk.SiteType says.
func (s *Session) Check(ctx context.Context, site sdk.Site) (sdk.State, error) {
	ctx, cancel := context.WithTimeout(ctx, s.limits.Check)
	defer cancel()
	return s.client.Check(ctx, site)
}

// ArmLogin means what sdk.LoginOffer says.
func (s *Session) ArmLogin(ctx context.Context, site sdk.Site, login sdk.Login) error {
	ctx, cancel := context.WithTimeout(ctx, s.limits.Login)
	defer cancel()
	return s.client.ArmLogin(ctx, site, login)
}

// ID names the process for people.
func (s *Session) ID() string { return s.process.ID() }

// Close ends the process, politely for a moment, and removes what the session
// needed. It is safe to call more than once and from any goroutine.
func (s *Session) Close() {
	s.once.Do(func() {
		polite := make(chan struct{})
		go func() {
			defer close(polite)
			s.plugin.Kill() // asks, waits, and hangs if the plugin wants it to
		}()
		select {
		case <-polite:
		case <-time.After(endGrace):
		}
		s.process.end(s.logger) // does nothing if it has ended
		select {
		case <-polite: // at once, for its pipes are closed now
		case <-time.After(killLimit):
			s.logger.Error("plugin process does not end", "process", s.ID())
		}
		s.hold.Close()
		s.sockets.remove(s.logger)
		if err := os.Remove(s.tempDir); err != nil && !errors.Is(err, fs.ErrNotExist) && s.tempDir != "" {
			s.logger.Warn("go-plugin's folder could not be removed", "dir", s.tempDir, "err", err)
		}
	})
}

// holdOpen makes the pipe whose closing tells the plugin that the agent is
// gone: the kernel closes it with the agent, however that ends.
func holdOpen() (hold, stdin *os.File, err error) {
	stdin, hold, err = os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("make plugin's stdin: %w", err)
	}
	return hold, stdin, nil
}
