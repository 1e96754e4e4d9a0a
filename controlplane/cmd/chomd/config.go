package main

import (
	"cmp"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"

	"chom.dev/controlplane/install"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/secret/keycommand"
	"chom.dev/controlplane/site"
	"chom.dev/controlplane/task"
	"chom.dev/controlplane/token"
)

// config is all that an operator decides. A key is the same word in a flag (--data-dir), in the environment (CHOMD_DATA_DIR) and
// in the file (data-dir: ...); the former win over the latter.
type config struct {
	DataDir  string `koanf:"data-dir"`
	Database string `koanf:"database"`

	PeopleListen  string `koanf:"people-listen"`
	PeopleCert    string `koanf:"people-cert"`
	PeopleKey     string `koanf:"people-key"`
	InsecureHTTP  bool   `koanf:"insecure-http"`
	PublicURL     string `koanf:"public-url"`
	people        `koanf:",squash"`
	outsideConfig `koanf:",squash"`
	namesConfig   `koanf:",squash"`
	issuersConfig `koanf:",squash"`
	backupsConfig `koanf:",squash"`
	metricsConfig `koanf:",squash"`
	ownBackup     `koanf:",squash"`
	SignUp        string `koanf:"sign-up"`

	AgentsListen string `koanf:"agents-listen"`
	AgentAddress string `koanf:"agent-address"`
	PackagesDir  string `koanf:"packages-dir"`

	MetricsListen string `koanf:"metrics-listen"`

	SecretsKey        string `koanf:"secrets-key"`
	SecretsKeyCommand string `koanf:"secrets-key-command"`

	ImpersonationPeriod time.Duration `koanf:"impersonation-period"`

	TrashPeriod      time.Duration `koanf:"trash-period"`
	ClosePeriod      time.Duration `koanf:"close-period"`
	TaskRetention    time.Duration `koanf:"task-retention"`
	WordPressURL     string        `koanf:"wordpress-url"`
	WordPressVersion string        `koanf:"wordpress-version"`
	WordPressSHA256  string        `koanf:"wordpress-sha256"`

	LogFormat string `koanf:"log-format"`
	LogLevel  string `koanf:"log-level"`

	credential bool // SecretsKey is one of systemd's
}

// defaultConfigFile is read when it is there and --config names no other.
const defaultConfigFile = "/etc/chomd/config.yaml"

func configFlags(f *pflag.FlagSet) {
	f.String("config", "", "configuration file in YAML (default "+defaultConfigFile+", if it is there)")
	f.String("data-dir", "/var/lib/chomd", "where the database and the keys lie; made with mode 0700")
	f.String("database", "", "sqlite:PATH or postgres://...; a URL with a password belongs into the file, not here (default sqlite:DATA-DIR/chom.db)")
	f.String("people-listen", "127.0.0.1:8080", "address for people: API, install script, packages")
	f.String("people-cert", "", "certificate chain in PEM for people-listen; with people-key it speaks HTTPS. Both are read again when they change")
	f.String("people-key", "", "its key in PEM")
	f.Bool("insecure-http", false, "allow plain HTTP for people-listen beyond loopback. Everybody on the way can read tokens: only for closed networks, such as a lab's bridge, or behind a proxy that speaks HTTPS")
	f.String("public-url", "", "URL under which people and new servers reach people-listen (default its own address)")
	peopleFlags(f)
	outsideFlags(f)
	namesFlags(f)
	issuersFlags(f)
	backupsFlags(f)
	metricsFlags(f)
	ownBackupFlags(f)
	f.String("sign-up", "open", "who may sign up: open for everybody with an e-mail address, invited for those whom a member invited or an operator named")
	f.String("agents-listen", ":8443", "address for agents, TLS 1.3 with client certificates")
	f.String("agent-address", "", "HOST:PORT under which agents reach agents-listen (default the host of public-url and the port of agents-listen)")
	f.String("packages-dir", "", "folder with chom-agent_amd64.deb and chom-agent_arm64.deb, which new servers install")
	f.String("metrics-listen", "127.0.0.1:9464", "address of /metrics, in clear and without a token: keep it on loopback or in a closed network; empty for none")
	f.String("secrets-key", "", "file with the keys that seal secrets in the database (default secrets.key among systemd's credentials, if it is there, else DATA-DIR/keys/secrets.key, which is made at the first start)")
	f.String("secrets-key-command", "", "program with arguments, without a shell, that prints these keys instead, for example from a KMS; it begins with an absolute path")
	f.Duration("impersonation-period", token.MaxImpersonation, "how long an operator acts as a member at once, an hour at most")
	f.Duration("trash-period", site.DefaultTrashPeriod, "how long a deleted site can be restored")
	f.Duration("close-period", organization.DefaultClosePeriod, "how long a closed organization can be reopened; its sites go to the trash then")
	f.Duration("task-retention", task.DefaultRetention, "how long a task is remembered after its end, with its steps and its log; the newest of each site and server is for as long as that is there")
	f.String("wordpress-url", "", "archive (tar.gz) that new WordPress sites are installed from")
	f.String("wordpress-version", "", "its release, for example 6.8.1")
	f.String("wordpress-sha256", "", "its SHA-256 in hex; an agent uses no other bytes")
	f.String("log-format", "text", "text or json")
	f.String("log-level", "info", "debug, info, warn or error")
}

// wrongConfig says which keys break which rules.
type wrongConfig []string

func (w wrongConfig) Error() string { return "configuration: " + strings.Join(w, "; ") }

const envPrefix = "CHOMD_"

// loadConfig reads file, environment and flags, and checks the result. Keys that nobody knows are refused.
func loadConfig(f *pflag.FlagSet, environ []string) (config, error) {
	k := koanf.New("\x00") // keys are flat: no separator
	path, err := f.GetString("config")
	if err != nil {
		return config{}, err
	}
	if path == "" {
		if _, err := os.Stat(defaultConfigFile); err == nil {
			path = defaultConfigFile
		} else if !errors.Is(err, fs.ErrNotExist) {
			return config{}, fmt.Errorf("read configuration: %w", err)
		}
	}
	if path != "" {
		if err := k.Load(file.Provider(path), yaml.Parser()); err != nil {
			return config{}, fmt.Errorf("read configuration %s: %w", path, err)
		}
	}
	fromEnv := env.Provider("\x00", env.Opt{
		Prefix:      envPrefix,
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(name, value string) (string, any) {
			return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, envPrefix)), "_", "-"), value
		},
	})
	if err := k.Load(fromEnv, nil); err != nil {
		return config{}, fmt.Errorf("read environment: %w", err)
	}
	known := map[string]bool{}
	configFlags := pflag.NewFlagSet("", pflag.ContinueOnError)
	f.VisitAll(func(flag *pflag.Flag) {
		if flag.Name != "help" && flag.Name != "config" {
			known[flag.Name] = true
			configFlags.AddFlag(flag)
		}
	})
	var wrong wrongConfig
	for _, key := range k.Keys() {
		if !known[key] {
			wrong = append(wrong, strings.ReplaceAll(key, "\x00", ".")+": there is no such key")
		}
	}
	if len(wrong) > 0 {
		return config{}, wrong
	}
	if err := k.Load(posflag.Provider(configFlags, "\x00", k), nil); err != nil {
		return config{}, fmt.Errorf("read flags: %w", err)
	}
	var c config
	err = k.UnmarshalWithConf("", &c, koanf.UnmarshalConf{DecoderConfig: &mapstructure.DecoderConfig{
		Result: &c, TagName: "koanf", ErrorUnused: true, WeaklyTypedInput: true,
		DecodeHook: mapstructure.StringToTimeDurationHookFunc(),
	}})
	if err != nil {
		return config{}, wrongConfig{err.Error()}
	}
	if abs, err := filepath.Abs(c.DataDir); err == nil && c.DataDir != "" {
		c.DataDir = abs
	}
	dir := valueOf(environ, "CREDENTIALS_DIRECTORY")
	c.takePassword(dir)
	if dir != "" && c.SecretsKey == "" && c.SecretsKeyCommand == "" {
		if path := filepath.Join(dir, "secrets.key"); exists(path) {
			c.SecretsKey, c.credential = path, true
		}
	}
	c.SecretsKey = cmp.Or(c.SecretsKey, filepath.Join(c.DataDir, "keys", "secrets.key"))
	c.Database = cmp.Or(c.Database, "sqlite:"+filepath.Join(c.DataDir, "chom.db"))
	return c, c.validate()
}

// addresses are what people and agents are told, derived from the listeners where they were left out. Ports may be 0 in the
// configuration; then people and agents are the addresses that were really bound.
func (c config) addresses(people, agents string) install.Address {
	c.PeopleListen, c.AgentsListen = people, agents
	if c.PublicURL == "" {
		scheme := "http"
		if c.tls() {
			scheme = "https"
		}
		c.PublicURL = scheme + "://" + c.PeopleListen
	}
	c.PublicURL = strings.TrimSuffix(c.PublicURL, "/")
	if c.AgentAddress == "" {
		if _, port, err := net.SplitHostPort(c.AgentsListen); err == nil {
			if u, err := url.Parse(c.PublicURL); err == nil && u.Hostname() != "" {
				c.AgentAddress = net.JoinHostPort(u.Hostname(), port)
			}
		}
	}
	return install.Address{URL: c.PublicURL, Agents: c.AgentAddress}
}

func (c *config) tls() bool { return c.PeopleCert != "" || c.PeopleKey != "" }

// validate names every key that breaks a rule.
func (c *config) validate() error {
	var wrong wrongConfig
	rule := func(ok bool, key, rule string) {
		if !ok {
			wrong = append(wrong, key+": "+rule)
		}
	}
	rule(c.DataDir != "", "data-dir", "must not be empty")
	rule(strings.HasPrefix(c.Database, "sqlite:") || strings.HasPrefix(c.Database, "postgres://") || strings.HasPrefix(c.Database, "postgresql://"),
		"database", "must begin with sqlite: or postgres://")
	rule(isAddress(c.PeopleListen), "people-listen", "must be HOST:PORT")
	rule((c.PeopleCert == "") == (c.PeopleKey == ""), "people-cert", "and people-key must be given together")
	if c.PeopleCert != "" && c.PeopleKey != "" {
		_, err := tls.LoadX509KeyPair(c.PeopleCert, c.PeopleKey)
		rule(err == nil, "people-cert", fmt.Sprintf("and people-key must be a certificate and its key in PEM: %v", err))
	}
	rule(!isAddress(c.PeopleListen) || c.tls() || c.InsecureHTTP || isLoopback(c.PeopleListen), "people-listen",
		"plain HTTP is for loopback only: set people-cert and people-key, or insecure-http for a closed network")
	to := c.addresses(c.PeopleListen, c.AgentsListen)
	rule(c.PublicURL != "" || !isEverywhere(c.PeopleListen), "public-url", "must be given when people-listen is on all addresses")
	if err := install.ValidateURL(to.URL); err != nil && (c.PublicURL != "" || !isEverywhere(c.PeopleListen)) {
		rule(false, "public-url", err.Error())
	}
	c.check(rule)
	c.checkOutside(rule)
	c.checkNames(rule)
	c.checkIssuers(c.namesConfig, rule)
	c.checkBackups(rule)
	c.checkMetrics(rule)
	c.checkOwnBackup(rule)
	rule(slices.Contains([]string{"open", "invited"}, c.SignUp), "sign-up", "must be open or invited")
	rule(isAddress(c.AgentsListen), "agents-listen", "must be HOST:PORT or :PORT")
	if err := install.ValidateAgents(to.Agents); err != nil && (c.AgentAddress != "" || c.PublicURL != "" || !isEverywhere(c.PeopleListen)) {
		rule(false, "agent-address", err.Error())
	}
	rule(c.MetricsListen == "" || isAddress(c.MetricsListen), "metrics-listen", "must be HOST:PORT, or empty for none")
	rule(filepath.IsAbs(c.SecretsKey) || c.DataDir == "", "secrets-key", "must be an absolute path")
	if c.SecretsKeyCommand != "" {
		_, err := keycommand.New(c.SecretsKeyCommand)
		rule(err == nil, "secrets-key-command", fmt.Sprint(err))
	}
	rule(c.ImpersonationPeriod >= time.Second && c.ImpersonationPeriod <= token.MaxImpersonation, "impersonation-period", "must be 1s to 1h")
	rule(c.TrashPeriod >= time.Second && c.TrashPeriod <= 365*24*time.Hour, "trash-period", "must be 1s to 8760h")
	rule(c.ClosePeriod >= time.Second && c.ClosePeriod <= 365*24*time.Hour, "close-period", "must be 1s to 8760h")
	rule(c.TaskRetention >= 24*time.Hour && c.TaskRetention <= 10*365*24*time.Hour, "task-retention", "must be 24h to 87600h")
	if c.PackagesDir != "" {
		info, err := os.Stat(c.PackagesDir)
		rule(err == nil && info.IsDir(), "packages-dir", "must be a folder")
	}
	if _, err := c.wordPress(); err != nil {
		wrong = append(wrong, err.Error())
	}
	rule(slices.Contains([]string{"text", "json"}, c.LogFormat), "log-format", "must be text or json")
	rule(new(slog.Level).UnmarshalText([]byte(c.LogLevel)) == nil, "log-level", "must be debug, info, warn or error")
	if len(wrong) > 0 {
		return wrong
	}
	return nil
}

var releasePattern = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.+~-]{0,62}$`)

// wordPress is the release that new sites get, nil when none is configured.
func (c *config) wordPress() (*site.Archive, error) {
	if c.WordPressURL == "" && c.WordPressVersion == "" && c.WordPressSHA256 == "" {
		return nil, nil
	}
	u, err := url.Parse(c.WordPressURL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || len(c.WordPressURL) > 2048 {
		return nil, errors.New("wordpress-url: must be an http or https URL")
	}
	if !releasePattern.MatchString(c.WordPressVersion) {
		return nil, errors.New("wordpress-version: must be a release, for example 6.8.1")
	}
	archive := &site.Archive{URL: c.WordPressURL, Version: c.WordPressVersion}
	sum, err := hex.DecodeString(c.WordPressSHA256)
	if err != nil || len(sum) != len(archive.SHA256) {
		return nil, errors.New("wordpress-sha256: must be 64 hexadecimal digits")
	}
	copy(archive.SHA256[:], sum)
	return archive, nil
}

// valueOf is a variable of an environment.
func valueOf(environ []string, name string) string {
	for _, variable := range environ {
		if value, ok := strings.CutPrefix(variable, name+"="); ok {
			return value
		}
	}
	return ""
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func isAddress(s string) bool {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	_, err = net.LookupPort("tcp", port)
	return err == nil
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// isEverywhere says that an address is that of no particular interface.
func isEverywhere(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}

// logger is built from what was configured.
func (c *config) logger(w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.LogLevel)) // validated before
	options := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
