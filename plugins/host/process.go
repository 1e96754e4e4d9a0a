package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"

	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
)

// process fits the agent's Starter to go-plugin's runner.
type process struct {
	ctx     context.Context // of the start: go-plugin's own carries no caller's deadline
	starter Starter
	command Command
	sockets *socketDir

	mu      sync.Mutex
	running Process
}

var _ runner.Runner = (*process)(nil)

// Start starts the program.
func (p *process) Start(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(p.ctx, cancel)
	defer stop()
	if err := p.ctx.Err(); err != nil {
		return err
	}
	running, err := p.starter.Start(ctx, p.command)
	if err != nil {
		return fmt.Errorf("start plugin process: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = running
	return nil
}

// Wait is called by go-plugin once, after both outputs have ended.
func (p *process) Wait(context.Context) error {
	return p.started().Wait()
}

// Kill ends everything that the plugin started.
func (p *process) Kill(ctx context.Context) error {
	running := p.started()
	if running == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, killLimit)
	defer cancel()
	return running.Kill(ctx)
}

// end is Kill for those who can only log.
func (p *process) end(logger *slog.Logger) {
	if err := p.Kill(context.Background()); err != nil { // a canceled caller must not spare the process
		logger.Error("plugin process could not be ended", "process", p.ID(), "err", err)
	}
}

func (p *process) started() Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running
}

func (p *process) Stdout() io.ReadCloser { return p.started().Stdout() }
func (p *process) Stderr() io.ReadCloser { return p.started().Stderr() }
func (p *process) Name() string          { return p.command.Path }

// Diagnose has nothing to add: stderr is in the log.
func (p *process) Diagnose(context.Context) string { return "" }

// ID is empty before the start; go-plugin reads that as "nothing to kill".
func (p *process) ID() string {
	if running := p.started(); running != nil {
		return running.ID()
	}
	return ""
}

// PluginToHost decides whether the address that the process printed is
// connected to. Only the socket that it was told to make is.
func (p *process) PluginToHost(network, address string) (string, string, error) {
	if network != "unix" {
		return "", "", errors.New("the plugin offers no unix socket")
	}
	address, err := p.sockets.resolve(address)
	return network, address, err
}

// HostToPlugin would translate addresses of the broker, which is not used.
func (p *process) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}

// environment is all that a plugin gets: go-plugin's own variables, with our
// socket folder in place of the one that go-plugin made, and fixed basics.
func environment(offered []string, socketDir string) []string {
	env := []string{
		"PATH=/usr/bin:/bin",
		"LANG=C.UTF-8",
		// The plugin itself needs 20 MiB; php's memory is not in this. The
		// limit makes the collector work harder before the site's slice does.
		"GOMEMLIMIT=64MiB",
		plugin.EnvUnixSocketDir + "=" + socketDir,
	}
	for _, e := range offered {
		if name, _, _ := strings.Cut(e, "="); name != plugin.EnvUnixSocketDir {
			env = append(env, e)
		}
	}
	return env
}
