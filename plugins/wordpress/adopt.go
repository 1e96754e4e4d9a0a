package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"syscall"
	"time"

	"chom.dev/plugins/sdk"
)

// A backup of another site that was restored here brings that one's configuration, which names a database that this site's user can't
// open, and a database that goes by that one's address:
//
//	foreign     wp-config.php names the database of another site of ours
//	  | the mark     private/.chom-moved
//	  v
//	moving      wp-config.php is this site's, with keys of its own
//	  | addresses    in all texts of the database
//	  v
//	installed   the mark is gone
//
// A configuration that the customer has reworded, so that it names no database of ours, is left alone.

// movedFile is the mark in private/.
const movedFile = ".chom-moved"

// moveLimit leaves time for the rest of an update, while which nobody sees the site. What is not replaced by then stays.
const moveLimit = 75 * time.Second

// defined finds one of our lines in a configuration, however it is spaced and quoted.
func defined(name, value string) *regexp.Regexp {
	return regexp.MustCompile(`(?m)^([ \t]*define\(\s*['"]` + name + `['"]\s*,\s*['"])(` + value + `)(['"]\s*\)\s*;)`)
}

var (
	ourDatabase = defined("DB_NAME", `s[a-z2-7]{10}`)
	ourUser     = defined("DB_USER", `s-[a-z2-7]{10}`)
	ourHost     = defined("DB_HOST", `localhost:/[^'"]*`)
	ourKeys     = func() (all []*regexp.Regexp) {
		for _, name := range keyNames {
			all = append(all, defined(name, fmt.Sprintf(`[A-Za-z0-9_-]{%d}`, keyLength)))
		}
		return all
	}()
)

// adopted gives another site's configuration as this site's, and says whether it was another's. Its keys are new ones: whoever is
// logged in there is nobody here.
func adopted(config []byte, site sdk.Site) ([]byte, bool) {
	found := ourDatabase.FindSubmatch(config)
	if found == nil || string(found[2]) == site.Database.Name.String() {
		return config, false
	}
	set := func(line *regexp.Regexp, value string) {
		config = line.ReplaceAllFunc(config, func(of []byte) []byte {
			part := line.FindSubmatch(of)
			return bytes.Join([][]byte{part[1], []byte(value), part[3]}, nil)
		})
	}
	set(ourDatabase, site.Database.Name.String())
	set(ourUser, site.Database.User.String())
	set(ourHost, "localhost:"+site.Database.Socket)
	for _, line := range ourKeys {
		set(line, newKey())
	}
	return config, true
}

// maxConfig is far above any hand-grown configuration.
const maxConfig = 1 << 20

// readConfig gives the configuration; none where that is the customer's own arrangement: a link, or huge.
func readConfig(public *os.Root) ([]byte, error) {
	f, err := public.OpenFile(configFile, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open configuration: %w", err)
	}
	defer f.Close()
	present, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if len(present) > maxConfig {
		return nil, nil
	}
	return present, nil
}

// foreign says whether what is here was another site's, and is not this one's yet.
func foreign(site sdk.Site) (bool, error) {
	private, public, err := openBoth(site)
	if err != nil {
		return false, err
	}
	defer private.Close()
	defer public.Close()
	if marked, err := exists(private, movedFile); marked || err != nil {
		return marked, err
	}
	config, err := readConfig(public)
	if err != nil {
		return false, err
	}
	_, is := adopted(config, site)
	return is, nil
}

// adopt makes what was another site's this one's. Killed at any point it goes on when it is called again. It says whether addresses
// of the other site are left.
func adopt(ctx context.Context, site sdk.Site, private, public *os.Root) (left bool, err error) {
	config, err := readConfig(public)
	if err != nil {
		return false, err
	}
	own, was := adopted(config, site)
	if was {
		if err := writeFile(private, private, movedFile, nil, configMode); err != nil {
			return false, err
		}
		if err := writeFile(private, public, configFile, own, configMode); err != nil {
			return false, err
		}
	}
	marked, err := exists(private, movedFile)
	if !marked || err != nil {
		return false, err
	}
	in := struct {
		Tree  string  `json:"tree"`
		URL   string  `json:"url"`
		Limit float64 `json:"limit"` // seconds
	}{site.PublicPath(), site.URL(), (moveLimit - 15*time.Second).Seconds()}
	var out struct {
		Left bool `json:"left"`
	}
	if err := run(ctx, site, site.PublicPath(), moveScript, moveLimit, in, &out); err != nil {
		return false, fmt.Errorf("replace the address of the other site: %w", err)
	}
	if err := private.Remove(movedFile); err != nil {
		return false, fmt.Errorf("remove %s: %w", movedFile, err)
	}
	return out.Left, nil
}
