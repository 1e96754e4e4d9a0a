package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// config is what logins remember, in ~/.config/chom/config.json (mode 0600; CHOM_CONFIG or --config name another file).
type config struct {
	// Current is the context of commands that name none.
	Current string `json:"current,omitempty"`
	// Contexts are the control planes, by the names that their person gave them.
	Contexts map[string]target `json:"contexts"`

	path string
}

// target is a control plane and the token to use there. People read "context"; that word is Go's already.
type target struct {
	// URL of the control plane's people's listener.
	URL string `json:"url"`
	// Token is the API token.
	Token string `json:"token"`
	// Made says that login had the token made, so that logout ends it; others are used elsewhere as well.
	Made bool `json:"made,omitempty"`
	// CA is a file with the certificate authority to trust besides the system's; may be empty.
	CA string `json:"ca,omitempty"`
	// Organization is the name or id of the one that commands mean which name none; may be empty.
	Organization string `json:"organization,omitempty"`
}

func configPath(flag string) (string, error) {
	if flag != "" {
		return flag, nil
	}
	if env := os.Getenv("CHOM_CONFIG"); env != "" {
		return env, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the configuration folder: %w", err)
	}
	return filepath.Join(dir, "chom", "config.json"), nil
}

// loadConfig reads the file; one that is not there holds no contexts.
func loadConfig(flag string) (*config, error) {
	path, err := configPath(flag)
	if err != nil {
		return nil, err
	}
	c := &config{path: path, Contexts: map[string]target{}}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if err := json.Unmarshal(text, c); err != nil {
		return nil, &problem{code: exitFailed, text: path + " is damaged: " + err.Error(), next: "repair it, or remove it and sign in again with: chom login --url URL"}
	}
	if c.Contexts == nil {
		c.Contexts = map[string]target{}
	}
	return c, nil
}

// find is the context with a name; the current one for the empty name.
func (c *config) find(name string) (string, target, error) {
	if name == "" {
		name = c.Current
	}
	t, known := c.Contexts[name]
	switch {
	case known:
		return name, t, nil
	case len(c.Contexts) == 0:
		return "", target{}, &problem{code: exitDenied, text: "not signed in", next: "sign in with: chom login --url URL"}
	case name == "":
		return "", target{}, &problem{code: exitUsage, text: "no context is chosen", next: "choose one with: chom context use NAME (" + strings.Join(c.names(), ", ") + ")"}
	}
	return "", target{}, notFoundf(near(name, c.names())+"see them with: chom context list", "there is no context %q", plain(name))
}

func (c *config) names() []string { return slices.Sorted(maps.Keys(c.Contexts)) }

// contextName is what a context may be called: what --context and CHOM_CONTEXT can say without quotes.
var contextName = regexp.MustCompile(`^[\pL\pN\[][\pL\pN._:@\[\]-]{0,252}$`)

func checkContextName(name string) error {
	if !contextName.MatchString(name) {
		return usagef("the name of a context must be up to 253 letters, digits and . _ : @ [ ] - and begin with a letter or digit")
	}
	return nil
}

// save replaces the file as a whole: a crash leaves the former one.
func (c *config) save() error {
	if err := c.replace(); err != nil {
		return fmt.Errorf("save configuration: %w", err)
	}
	return nil
}

func (c *config) replace() error {
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(c.path), 0o700); err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(c.path), ".config-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }() // gone already when all went well
	_, err = file.Write(append(text, '\n'))
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), c.path)
}

// target is where commands go: the context that --context names, else CHOM_URL with CHOM_TOKEN, else the context of CHOM_CONTEXT,
// else the current one.
func (p *program) target() (target, error) {
	fromEnv := target{URL: os.Getenv("CHOM_URL"), Token: os.Getenv("CHOM_TOKEN")}
	if p.context == "" && fromEnv != (target{}) {
		if fromEnv.URL == "" || fromEnv.Token == "" {
			return target{}, usagef("CHOM_URL and CHOM_TOKEN belong together: a token goes only to the control plane that it is for")
		}
		return fromEnv, nil
	}
	c, err := loadConfig(p.configFile)
	if err != nil {
		return target{}, err
	}
	_, t, err := c.find(p.chosen())
	return t, err
}

// chosen is the context that this run names; empty for the current one.
func (p *program) chosen() string {
	if p.context != "" {
		return p.context
	}
	return os.Getenv("CHOM_CONTEXT")
}
