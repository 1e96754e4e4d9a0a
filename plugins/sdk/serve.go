package sdk

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	pluginv1 "chom.dev/proto/gen/chom/plugin/v1"
)

// ProtocolVersion is the newest version of this SDK's promise. An agent offers
// every version it still speaks and the newest common one is used; a plugin
// without a common one is refused at its start, with a clear error.
//
//	1: Describe, Install, Update, Check, ArmLogin
const ProtocolVersion = 1

// Handshake tells a plugin from a program that happens to be started: without
// this cookie in its environment a plugin explains itself and ends. It is no
// secret.
var Handshake = plugin.HandshakeConfig{
	ProtocolVersion:  ProtocolVersion,
	MagicCookieKey:   "CHOM_PLUGIN",
	MagicCookieValue: "site-type",
}

// PluginName is what Plugins calls the one plugin that a process serves.
const PluginName = "site_type"

// Plugins is the go-plugin set by protocol version, for Serve, package host
// and sdktest. impl is nil on the agent's side.
func Plugins(impl SiteType) map[int]plugin.PluginSet {
	return map[int]plugin.PluginSet{1: {PluginName: &glue{impl: impl}}}
}

// maxMessage bounds a message on the wire, both ways: the largest real one, a
// description or a state full of findings, stays below 200 KiB.
const maxMessage = 1 << 20

// CallOptions are the limits that the agent's side sets on its connection.
func CallOptions() grpc.DialOption {
	return grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage))
}

// Serve is a plugin's main function. It returns when the agent has ended the
// session, and does not return when something is wrong with the plugin or its
// surroundings: then it says so on stderr and exits with status 1.
//
// Called with the single argument "describe" it prints the description as JSON
// and returns; packages ship that file.
func Serve(impl SiteType) {
	if err := describe(impl).Validate(); err != nil {
		fail("the description is invalid: %v", err)
	}
	if len(os.Args) == 2 && os.Args[1] == "describe" {
		if err := printDescription(os.Stdout, impl); err != nil {
			fail("print description: %v", err)
		}
		return
	}
	if os.Geteuid() == 0 {
		fail("a plugin never runs as root")
	}
	syscall.Umask(0o027) // group may read: nginx is in it; others get nothing
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	go endWithAgent(os.Stdin)
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig:  Handshake,
		VersionedPlugins: Plugins(impl),
		GRPCServer: func(options []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(options, grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))...)
		},
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: os.Stderr}),
	})
}

func printDescription(w io.Writer, impl SiteType) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(describe(impl))
}

// endWithAgent exits when stdin closes: the agent holds the other end of that
// pipe, so a killed agent leaves no plugin behind, wherever systemd put it, and
// no unit that failed.
func endWithAgent(stdin io.Reader) {
	if _, err := io.Copy(io.Discard, stdin); err != nil {
		slog.Error("watch stdin", "err", err)
	}
	os.Exit(0)
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "chom plugin: "+format+"\n", args...)
	os.Exit(1)
}

// glue is what go-plugin asks for.
type glue struct {
	plugin.NetRPCUnsupportedPlugin
	impl SiteType
}

var _ plugin.GRPCPlugin = (*glue)(nil)

func (g *glue) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	pluginv1.RegisterSiteTypeServiceServer(s, &server{impl: g.impl})
	return nil
}

func (g *glue) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return NewClient(conn), nil
}
