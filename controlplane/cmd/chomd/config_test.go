package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"chom.dev/controlplane/install"
)

func load(t *testing.T, file string, environ []string, args ...string) (config, error) {
	t.Helper()
	f := pflag.NewFlagSet("chomd", pflag.ContinueOnError)
	configFlags(f)
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Parse(append([]string{"--config", path}, args...)); err != nil {
		t.Fatal(err)
	}
	return loadConfig(f, environ)
}

func TestConfig(t *testing.T) {
	t.Run("needs nothing", func(t *testing.T) {
		c, err := load(t, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.Database != "sqlite:/var/lib/chomd/chom.db" || c.addresses(c.PeopleListen, c.AgentsListen) != (install.Address{URL: "http://127.0.0.1:8080", Agents: "127.0.0.1:8443"}) || c.TrashPeriod != 7*24*time.Hour {
			t.Errorf("got %+v", c)
		}
	})
	t.Run("takes flags over the environment over the file", func(t *testing.T) {
		file := "log-level: error\nlog-format: json\ntrash-period: 1h\n"
		c, err := load(t, file, []string{"CHOMD_LOG_LEVEL=warn", "CHOMD_TRASH_PERIOD=2h", "PATH=/bin"}, "--trash-period", "3h")
		if err != nil {
			t.Fatal(err)
		}
		if c.LogFormat != "json" || c.LogLevel != "warn" || c.TrashPeriod != 3*time.Hour {
			t.Errorf("got %+v", c)
		}
	})
	for name, test := range map[string]struct {
		file string
		env  []string
		args []string
		want string
	}{
		"an unknown key in the file":      {file: "databse: sqlite:x\n", want: "databse: there is no such key"},
		"an unknown nested key":           {file: "people:\n  listen: x\n", want: "people.listen: there is no such key"},
		"an unknown key in the variables": {env: []string{"CHOMD_PEOPLE_LISTN=x"}, want: "people-listn: there is no such key"},
		"plain HTTP beyond loopback":      {args: []string{"--people-listen", "10.0.0.1:80"}, want: "people-listen: plain HTTP is for loopback only"},
		"plain HTTP on all addresses":     {args: []string{"--people-listen", ":80", "--public-url", "http://x.example"}, want: "people-listen: plain HTTP is for loopback only"},
		"all addresses without a URL":     {args: []string{"--people-listen", "0.0.0.0:80", "--insecure-http"}, want: "public-url: must be given when"},
		"a key without a certificate":     {args: []string{"--people-key", "x"}, want: "people-cert: and people-key must be given together"},
		"another database":                {args: []string{"--database", "mysql://x"}, want: "database: must begin with"},
		"a URL with shell in it":          {args: []string{"--public-url", "http://x$(id)"}, want: "public-url: must be http(s)://HOST"},
		"an agent address without port":   {args: []string{"--agent-address", "x.example"}, want: "agent-address: must be HOST:PORT"},
		"a sign-up for some":              {args: []string{"--sign-up", "friends"}, want: "sign-up: must be open or invited"},
		"a key file that moves":           {args: []string{"--secrets-key", "keys/secrets.key"}, want: "secrets-key: must be an absolute path"},
		"a key command for a shell":       {args: []string{"--secrets-key-command", "sh -c id"}, want: "secrets-key-command: must begin with the absolute path"},
		"a day as somebody else":          {args: []string{"--impersonation-period", "24h"}, want: "impersonation-period: must be 1s to 1h"},
		"a trash period of nothing":       {args: []string{"--trash-period", "0s"}, want: "trash-period: must be"},
		"a history of an hour":            {args: []string{"--task-retention", "1h"}, want: "task-retention: must be 24h to 87600h"},
		"a trash period of words":         {file: "trash-period: a week\n", want: "trash-period"},
		"a quota that is none":            {args: []string{"--backup-quota", "50 GB"}, want: "backup-quota: must be a number of at most 1024T with an optional unit of K, M, G or T, or 0"},
		"a quota of more than there is":   {args: []string{"--backup-quota", "1025T"}, want: "backup-quota: must be a number of at most 1024T with an optional unit of K, M, G or T, or 0"},
		"metrics for an hour":             {args: []string{"--metrics-retention", "1h"}, want: "metrics-retention: must be 2h to 17520h, or 0"},
		"metrics in no space":             {args: []string{"--metrics-max-bytes", "1M"}, want: "metrics-max-bytes: must be a size such as 8G, 100M or more"},
		"a drill every minute":            {args: []string{"--drill-every", "1m"}, want: "drill-every: must be 1h to 8760h, or 0"},
		"half a WordPress release":        {args: []string{"--wordpress-url", "http://x.example/wp.tar.gz"}, want: "wordpress-version: must be"},
		"a short checksum":                {args: []string{"--wordpress-url", "http://x.example/wp.tar.gz", "--wordpress-version", "6.8.1", "--wordpress-sha256", "abc"}, want: "wordpress-sha256: must be"},
		"a packages folder that is none":  {args: []string{"--packages-dir", "/nonexistent"}, want: "packages-dir: must be a folder"},
		"a proxy that is no network":      {args: []string{"--trusted-proxies", "10.0.0.0/8,proxy.example"}, want: "trusted-proxies: must be"},
		"a network with a host in it":     {args: []string{"--trusted-proxies", "10.0.0.1/8"}, want: "trusted-proxies: must be"},
		"an origin with a path":           {args: []string{"--cors-origins", "https://a.example/"}, want: "cors-origins: must be"},
		"an origin that is a pattern":     {args: []string{"--cors-origins", "*.a.example"}, want: "cors-origins: must be"},
		"another store for limits":        {args: []string{"--redis", "memcached://x"}, want: "redis: must be"},
		"a limit that locks all out":      {args: []string{"--limit-api", "0"}, want: "limit-api: must be"},
		"an unknown log format":           {args: []string{"--log-format", "xml"}, want: "log-format: must be"},
		"an unknown log level":            {args: []string{"--log-level", "loud"}, want: "log-level: must be"},
	} {
		t.Run("refuses "+name, func(t *testing.T) {
			_, err := load(t, test.file, test.env, test.args...)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	t.Run("allows plain HTTP beyond loopback when told so", func(t *testing.T) {
		c, err := load(t, "", nil, "--people-listen", "10.0.0.1:8080", "--insecure-http")
		if err != nil || c.addresses(c.PeopleListen, c.AgentsListen) != (install.Address{URL: "http://10.0.0.1:8080", Agents: "10.0.0.1:8443"}) {
			t.Errorf("got %+v, %v", c, err)
		}
	})
	t.Run("reads lists", func(t *testing.T) {
		c, err := load(t, "trusted-proxies: 10.0.0.0/8, ::1\n", nil, "--cors-origins", "https://a.example, http://b.example:8080")
		if err != nil {
			t.Fatal(err)
		}
		proxies, _ := c.proxies()
		origins, _ := c.origins()
		if fmt.Sprint(proxies) != "[10.0.0.0/8 ::1/128]" || fmt.Sprint(origins) != "[https://a.example http://b.example:8080]" {
			t.Errorf("got %v, %v", proxies, origins)
		}
	})
	t.Run("names every broken key at once", func(t *testing.T) {
		_, err := load(t, "", nil, "--log-level", "x", "--log-format", "y")
		if err == nil || !strings.Contains(err.Error(), "log-level") || !strings.Contains(err.Error(), "log-format") {
			t.Errorf("got %v", err)
		}
	})
}
