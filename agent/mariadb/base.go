package mariadb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"chom.dev/agent/atomicfile"
	"chom.dev/agent/fail"
	"chom.dev/agent/systemd"
)

const (
	service    = "mariadb.service"
	configFile = "/etc/mysql/mariadb.conf.d/60-chom.cnf" // after the distribution's 50-server.cnf
	filesDir   = "/var/lib/mysql-files"                  // closed to the server's own user, and empty
)

// setting is a line of the server's configuration.
type setting struct{ key, value string }

// settings are ours to decide on a host that serves many small sites.
var settings = []setting{
	{"skip_networking", "ON"}, // sites come in by the socket only
	{"skip_name_resolve", "ON"},
	{"local_infile", "OFF"},
	{"symbolic_links", "OFF"},
	{"secure_file_priv", filesDir}, // nobody has FILE; if someone had, this is all he got
	{"performance_schema", "OFF"},  // some 80 MB on an idle server
	{"innodb_buffer_pool_size", "128M"},
	{"key_buffer_size", "8M"},
	{"max_connections", "300"},
	{"max_allowed_packet", "64M"}, // posts with pictures inside
	{"innodb_file_per_table", "ON"},
	{"character_set_server", "utf8mb4"},
}

func config() []byte {
	var b strings.Builder
	b.WriteString("# Written by chom-agent; changes are overwritten.\n[mariadb]\n")
	for _, s := range settings {
		fmt.Fprintf(&b, "%s = %s\n", s.key, s.value)
	}
	return []byte(b.String())
}

// host is what of the init system is needed here.
type host interface {
	Restart(ctx context.Context, unit string) error
	Start(ctx context.Context, unit string) error
	State(ctx context.Context, unit string) (systemd.State, error)
}

// EnsureConfigured gives the host's server our configuration and has it running
// with it.
func EnsureConfigured(ctx context.Context, h *systemd.Host) error {
	s, err := New(Socket)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }() // nothing is written through it
	if err := s.ensureConfigured(ctx, h); err != nil {
		return fmt.Errorf("configure mariadb: %w", err)
	}
	return nil
}

func (s *Server) ensureConfigured(ctx context.Context, h host) error {
	if err := os.MkdirAll(filesDir, 0o700); err != nil {
		return err
	}
	if _, err := atomicfile.Write(configFile, config(), 0o644, 0); err != nil {
		return err
	}
	fail.Point("mariadb.configured")
	st, err := h.State(ctx, service)
	if err != nil {
		return err
	}
	if st.Active != "active" {
		if err := h.Start(ctx, service); err != nil {
			return err
		}
	}
	// Asked of the server itself: a kill between writing and restarting would
	// otherwise leave it running with less than the file says.
	current, err := s.current(ctx)
	if err != nil || current {
		return err
	}
	if err := h.Restart(ctx, service); err != nil {
		return err
	}
	if current, err = s.current(ctx); err != nil {
		return err
	}
	if !current {
		return fmt.Errorf("it runs with other settings than %s says", configFile)
	}
	return nil
}

// Configured reports whether the host's server runs with our configuration.
func Configured(ctx context.Context, h *systemd.Host) (bool, error) {
	have, err := os.ReadFile(configFile)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || string(have) != string(config()) {
		return false, err
	}
	st, err := h.State(ctx, service)
	if err != nil || st.Active != "active" {
		return false, err
	}
	s, err := New(Socket)
	if err != nil {
		return false, err
	}
	defer func() { _ = s.Close() }() // nothing is written through it
	return s.current(ctx)
}

// proofs are the settings that matter for isolation, as the server shows them.
var proofs = []setting{
	{"skip_networking", "ON"},
	{"local_infile", "OFF"},
	{"have_symlink", "DISABLED"},
	{"secure_file_priv", filesDir + "/"},
	{"performance_schema", "OFF"},
}

func (s *Server) current(ctx context.Context) (bool, error) {
	rows, err := s.db.QueryContext(ctx, "SHOW GLOBAL VARIABLES")
	if err != nil {
		return false, err
	}
	defer rows.Close() // its error is rows.Err
	met := 0
	for rows.Next() {
		var have setting
		if err := rows.Scan(&have.key, &have.value); err != nil {
			return false, err
		}
		if slices.Contains(proofs, have) {
			met++
		}
	}
	return met == len(proofs), rows.Err()
}
