package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"strings"

	"chom.dev/plugins/sdk"
)

const (
	configFile = "wp-config.php"
	// PHP runs as the site's user: nobody else needs to read the keys.
	configMode = 0o600
)

// keyNames are WordPress's secrets: cookies and nonces are signed with them.
var keyNames = []string{
	"AUTH_KEY", "SECURE_AUTH_KEY", "LOGGED_IN_KEY", "NONCE_KEY",
	"AUTH_SALT", "SECURE_AUTH_SALT", "LOGGED_IN_SALT", "NONCE_SALT",
}

// writeConfig writes the configuration into the staged tree, in place of
// whatever the archive brought.
func writeConfig(private, tree *os.Root, site sdk.Site) error {
	keys := make([]string, len(keyNames))
	for i := range keys {
		keys[i] = newKey()
	}
	return writeFile(private, tree, configFile, renderConfig(site, keys), configMode)
}

// keyAlphabet avoids quotes and backslashes; 64 characters, so that a byte
// picks one without bias.
const keyAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

const keyLength = 64 // characters of 6 bits: 384 bits, as WordPress's own

func newKey() string {
	var b [keyLength]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	for i := range b {
		b[i] = keyAlphabet[b[i]%byte(len(keyAlphabet))]
	}
	return string(b[:])
}

// renderConfig prints wp-config.php. The customer may edit the file later; we
// only ever change the line of one constant again (setBlockExternal), and those
// that are another site's (adopt).
func renderConfig(site sdk.Site, keys []string) []byte {
	var out bytes.Buffer
	define := func(name, literal string) { fmt.Fprintf(&out, "define( %s, %s );\n", phpString(name), literal) }
	out.WriteString("<?php\n")
	out.WriteString("// Made by CHOM when the site was installed. Yours to edit.\n\n")
	define("DB_NAME", phpString(site.Database.Name.String()))
	define("DB_USER", phpString(site.Database.User.String()))
	out.WriteString("// No password: MariaDB asks the kernel who connects to its socket.\n")
	define("DB_PASSWORD", phpString(""))
	define("DB_HOST", phpString("localhost:"+site.Database.Socket))
	define("DB_CHARSET", phpString("utf8mb4"))
	define("DB_COLLATE", phpString(""))
	out.WriteString("\n")
	for i, name := range keyNames {
		define(name, phpString(keys[i]))
	}
	out.WriteString("\n$table_prefix = 'wp_';\n\n")
	out.WriteString("// A timer of the host runs wp-cron.php every minute.\n")
	define("DISABLE_WP_CRON", "true")
	define("DISALLOW_FILE_EDIT", "true")
	define("WP_AUTO_UPDATE_CORE", phpString("minor"))
	define("FS_METHOD", phpString("direct"))
	out.WriteString("// The group is the web server; others get nothing.\n")
	define("FS_CHMOD_DIR", "0750")
	define("FS_CHMOD_FILE", "0640")
	define("WP_DEBUG", "false")
	out.Write(blockExternalLine(site.Settings.Bool(settingBlockExternal)))
	out.WriteString("\nif ( ! defined( 'ABSPATH' ) ) {\n\tdefine( 'ABSPATH', __DIR__ . '/' );\n}\n")
	out.WriteString("require_once ABSPATH . 'wp-settings.php';\n")
	return out.Bytes()
}

// phpString is the one way text gets into PHP source: a single-quoted literal,
// in which only the quote and the backslash mean something.
func phpString(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

func blockExternalLine(block bool) []byte {
	return fmt.Appendf(nil, "define( 'WP_HTTP_BLOCK_EXTERNAL', %t );\n", block)
}

// setBlockExternal brings our line in wp-config.php to the setting. A file in
// which the customer has reworded or removed that line is left alone.
func setBlockExternal(private, public *os.Root, block bool) error {
	present, err := readConfig(public)
	if err != nil {
		return err
	}
	want, other := blockExternalLine(block), blockExternalLine(!block)
	if !bytes.Contains(present, other) {
		return nil
	}
	return writeFile(private, public, configFile, bytes.Replace(present, other, want, 1), configMode)
}
