package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v2"
)

const defaultConfigFile = "/etc/chom-agent/config.yaml"

// config is what the agent must know of its host and of its control plane.
type config struct {
	file       string
	Server     string // host:port of the agents' door
	StateDir   string
	RuntimeDir string
	LogLevel   slog.Level
}

// setting is one value that can come, in this order, from a flag, from the
// environment, from the file, or from here.
type setting struct {
	key   string // in the file; the flag has hyphens, the variable CHOM_AGENT_ and capitals
	value string // default
	usage string
	set   func(*config, string) error
}

var settings = []setting{
	{"server", "", "address of the control plane's agents' door, host:port", func(c *config, v string) error {
		if v == "" {
			return nil // only some verbs need it
		}
		c.Server = v
		host, port, err := net.SplitHostPort(v)
		if err == nil && (host == "" || port == "") {
			err = errors.New("it must be host:port")
		}
		return err
	}},
	{"state_dir", "/var/lib/chom-agent", "where identity and journal are kept", func(c *config, v string) error {
		c.StateDir = v
		return absolute(v)
	}},
	{"runtime_dir", "/run/chom-agent", "where the status is shown", func(c *config, v string) error {
		c.RuntimeDir = v
		return absolute(v)
	}},
	{"log_level", "info", "debug, info, warn or error", func(c *config, v string) error {
		return c.LogLevel.UnmarshalText([]byte(v))
	}},
}

const envPrefix = "CHOM_AGENT_"

func (s setting) flag() string { return strings.ReplaceAll(s.key, "_", "-") }
func (s setting) env() string  { return envPrefix + strings.ToUpper(s.key) }

func absolute(path string) error {
	if !filepath.IsAbs(path) {
		return errors.New("it must be an absolute path")
	}
	return nil
}

// loadConfig reads all sources. A key that nobody knows is an error: it is a
// typing mistake, and the value it was meant for is missing.
func loadConfig(cmd *cobra.Command, environ []string) (*config, error) {
	c := &config{}
	var err error
	if c.file, err = cmd.Flags().GetString("config"); err != nil {
		return nil, err
	}
	file, err := readFile(c.file)
	if err != nil {
		return nil, err
	}
	env, err := readEnv(environ)
	if err != nil {
		return nil, err
	}
	for _, s := range settings {
		value, from := s.value, "default"
		if v, ok := file[s.key]; ok {
			value, from = v, c.file
		}
		if v, ok := env[s.env()]; ok {
			value, from = v, s.env()
		}
		if cmd.Flags().Changed(s.flag()) {
			if value, err = cmd.Flags().GetString(s.flag()); err != nil {
				return nil, err
			}
			from = "--" + s.flag()
		}
		if err := s.set(c, value); err != nil {
			return nil, fmt.Errorf("%s from %s: %w", s.key, from, err)
		}
	}
	return c, nil
}

// readFile gives the keys of the file. It may be missing: enroll writes it, and
// what can't do without it says so.
func readFile(path string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	var file map[string]string
	if err := yaml.UnmarshalStrict(text, &file); err != nil {
		return nil, fmt.Errorf("read configuration %s: %w", path, err)
	}
	for key := range file {
		if !slices.ContainsFunc(settings, func(s setting) bool { return s.key == key }) {
			return nil, fmt.Errorf("read configuration %s: there is no key %q", path, key)
		}
	}
	return file, nil
}

func readEnv(environ []string) (map[string]string, error) {
	env := map[string]string{}
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, envPrefix) {
			continue
		}
		if !slices.ContainsFunc(settings, func(s setting) bool { return s.env() == name }) {
			return nil, fmt.Errorf("environment variable %s means nothing to this agent", name)
		}
		env[name] = value
	}
	return env, nil
}

func (c *config) identityDir() string { return filepath.Join(c.StateDir, "identity") }
func (c *config) journalFile() string { return filepath.Join(c.StateDir, "journal.db") }
func (c *config) certificatesDir() string {
	return filepath.Join(c.StateDir, "certificates")
}
func (c *config) backupDir() string   { return filepath.Join(c.StateDir, "backup") }
func (c *config) sizesFile() string   { return filepath.Join(c.StateDir, "sizes.json") }
func (c *config) trafficFile() string { return filepath.Join(c.StateDir, "traffic.json") }
func (c *config) statusFile() string  { return filepath.Join(c.RuntimeDir, "status.json") }

// logger writes for systemd's journal, which adds the time itself.
func (c *config) logger(w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: c.LogLevel}
	if os.Getenv("JOURNAL_STREAM") != "" {
		opts.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
