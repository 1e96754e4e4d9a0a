package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// config is what login remembers, in ~/.config/chom/config.json (mode 0600; CHOM_CONFIG or --config name another file).
type config struct {
	// URL of the control plane's people's listener.
	URL string `json:"url"`
	// Token is the API token.
	Token string `json:"token"`
	// CA is a file with the certificate authority to trust besides the system's; may be empty.
	CA string `json:"ca,omitempty"`
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

func loadConfig(path string) (config, error) {
	var c config
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, &problem{code: exitDenied, text: "not signed in", next: "sign in with: chom login --url URL"}
	}
	if err != nil {
		return c, fmt.Errorf("read configuration: %w", err)
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return c, &problem{code: exitFailed, text: path + " is damaged", next: "sign in again with: chom login --url URL"}
	}
	return c, nil
}

// save replaces the file as a whole: a crash leaves the former one.
func (c config) save(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("save configuration: %w", err)
	}
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("save configuration: %w", err)
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".config-*") // mode 0600
	if err != nil {
		return fmt.Errorf("save configuration: %w", err)
	}
	defer func() { _ = os.Remove(file.Name()) }() // gone already when all went well
	if _, err := file.Write(append(text, '\n')); err != nil {
		return errors.Join(fmt.Errorf("save configuration: %w", err), file.Close())
	}
	if err := file.Close(); err != nil {
		return fmt.Errorf("save configuration: %w", err)
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return fmt.Errorf("save configuration: %w", err)
	}
	return nil
}
