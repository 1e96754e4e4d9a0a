package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestConfig(t *testing.T) {
	load := func(t *testing.T, file string, env []string, args ...string) (*config, error) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := root()
		if err := cmd.ParseFlags(append(args, "--config", path)); err != nil {
			t.Fatal(err)
		}
		return loadConfig(cmd, env)
	}
	t.Run("takes flags before environment before file before defaults", func(t *testing.T) {
		c, err := load(t, "server: file:1\nstate_dir: /file\nlog_level: warn\n",
			[]string{"CHOM_AGENT_SERVER=env:1", "CHOM_AGENT_STATE_DIR=/env", "HOME=/root"}, "--server", "flag:1")
		if err != nil {
			t.Fatal(err)
		}
		if c.Server != "flag:1" || c.StateDir != "/env" || c.LogLevel.String() != "WARN" || c.RuntimeDir != "/run/chom-agent" {
			t.Errorf("config is %+v", c)
		}
	})
	for _, c := range []struct {
		claim, file string
		env, args   []string
		want        string // part of the error
	}{
		{"refuses an unknown key in the file", "sever: x:1\n", nil, nil, `no key "sever"`},
		{"refuses a key that is there twice", "server: x:1\nserver: y:1\n", nil, nil, "already set"},
		{"refuses a file that is no map", "- a\n", nil, nil, "config.yaml"},
		{"refuses an unknown variable", "", []string{"CHOM_AGENT_SEVER=x"}, nil, "CHOM_AGENT_SEVER"},
		{"refuses a server without a port, and says where it stands", "server: x\n", nil, nil, "config.yaml"},
		{"refuses an empty host", "", nil, []string{"--server", ":443"}, "--server"},
		{"refuses a relative directory", "", []string{"CHOM_AGENT_STATE_DIR=x"}, nil, "absolute"},
		{"refuses an unknown log level", "", nil, []string{"--log-level", "loud"}, "log_level"},
	} {
		t.Run(c.claim, func(t *testing.T) {
			if _, err := load(t, c.file, c.env, c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want something about %s", err, c.want)
			}
		})
	}
}
