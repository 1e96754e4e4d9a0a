package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"chom.dev/plugins/sdk"
	"chom.dev/plugins/sdk/archive"
)

const (
	stagingDir = ".chom-install"      // in private/; its presence means "not finished"
	partDir    = stagingDir + "/part" // being extracted
	treeDir    = stagingDir + "/tree" // complete
	rootFolder = "wordpress"          // what wordpress.org's archives begin with
)

func (wordpress) Install(ctx context.Context, site sdk.Site, progress func(sdk.Progress)) (sdk.State, error) {
	unlock, err := site.Lock(ctx)
	if err != nil {
		return sdk.State{}, err
	}
	defer unlock()
	private, public, err := openBoth(site)
	if err != nil {
		return sdk.State{}, err
	}
	defer private.Close()
	defer public.Close()

	var state sdk.State
	if err = installedFiles(site); errors.Is(err, sdk.ErrNotInstalled) {
		state, err = installFiles(ctx, site, private, public, progress)
	} else if err == nil {
		// Files without a database would offer the installer to the world;
		// on an installed site this finds nothing to do.
		state, err = populate(ctx, site, site.PublicPath())
	}
	if err != nil {
		return sdk.State{}, err
	}
	return state, placeMustUse(private, public)
}

// installFiles takes a site from wherever an earlier call left it to
// published.
func installFiles(ctx context.Context, site sdk.Site, private, public *os.Root, progress func(sdk.Progress)) (sdk.State, error) {
	staged, err := exists(private, treeDir)
	if err != nil {
		return sdk.State{}, err
	}
	if !staged {
		if err := refuseForeign(public); err != nil {
			return sdk.State{}, err
		}
		progress(sdk.Progress{Step: "extract", Message: "Unpacking WordPress", Fraction: 0.02})
		if err := stage(ctx, site, private, progress); err != nil {
			return sdk.State{}, err
		}
	}
	tree, err := private.OpenRoot(treeDir)
	if err != nil {
		return sdk.State{}, fmt.Errorf("open staged tree: %w", err)
	}
	defer tree.Close()
	// The configuration is the first to be published, and only once the
	// database is complete.
	unpublished, err := exists(tree, configFile)
	if err != nil {
		return sdk.State{}, err
	}
	var state sdk.State
	if unpublished {
		progress(sdk.Progress{Step: "database", Message: "Installing WordPress into the database", Fraction: 0.4})
		synced := startSync(tree)
		state, err = populate(ctx, site, site.PrivatePath()+"/"+treeDir)
		if err := errors.Join(err, <-synced); err != nil {
			return sdk.State{}, err
		}
	}
	progress(sdk.Progress{Step: "publish", Message: "Publishing the files", Fraction: 0.9})
	if err := publish(private, tree, public); err != nil || unpublished {
		return state, err
	}
	return measure(ctx, site) // an earlier call installed the database
}

// refuseForeign stops before anything is made if the document root holds
// something: whose it is can't be told.
func refuseForeign(public *os.Root) error {
	names, err := list(public)
	if err != nil {
		return err
	}
	if len(names) > 0 {
		return sdk.Permanent(fmt.Errorf("the document root is not empty, it holds %q", names[0]))
	}
	return nil
}

// stage extracts the archive and gives the tree its name only when it is
// complete: checksum right, core there, configuration and must-use plugin in
// place.
func stage(ctx context.Context, site sdk.Site, private *os.Root, progress func(sdk.Progress)) error {
	if err := private.RemoveAll(stagingDir); err != nil {
		return fmt.Errorf("clear staging: %w", err)
	}
	if err := private.MkdirAll(partDir, 0o750); err != nil {
		return fmt.Errorf("make staging: %w", err)
	}
	part, err := private.OpenRoot(partDir)
	if err != nil {
		return fmt.Errorf("open staging: %w", err)
	}
	defer part.Close()
	if err := extract(ctx, site.Archive, part, progress); err != nil {
		return err
	}
	name, err := missing(part, coreFiles...)
	if err != nil {
		return err
	}
	if name != "" {
		return sdk.Permanent(fmt.Errorf("the archive is not a WordPress: it lacks %s", name))
	}
	if err := writeConfig(private, part, site); err != nil {
		return err
	}
	if err := placeMustUse(private, part); err != nil {
		return err
	}
	if err := private.Rename(partDir, treeDir); err != nil {
		return fmt.Errorf("finish staging: %w", err)
	}
	return nil
}

func extract(ctx context.Context, from *sdk.Archive, part *os.Root, progress func(sdk.Progress)) error {
	packed, err := os.Open(from.Path)
	if err != nil {
		return fmt.Errorf("open archive: %w", err)
	}
	defer packed.Close()
	const usualEntries = 3000
	_, err = archive.Extract(ctx, part, packed, archive.Options{
		SHA256:    from.SHA256,
		StripRoot: rootFolder,
		Limits:    archive.DefaultLimits,
		Progress: func(entries int, _ int64) {
			progress(sdk.Progress{
				Step:     "extract",
				Message:  fmt.Sprintf("%d files unpacked", entries),
				Fraction: 0.02 + 0.38*min(1, float64(entries)/usualEntries),
			})
		},
	})
	if errors.Is(err, archive.ErrRefused) {
		return sdk.Permanent(err)
	}
	return err
}

// startSync writes the staged files to the disk while PHP is busy with the
// database: published names must not lead to empty files after a power loss.
// One call for the file system is far cheaper than one for each file.
func startSync(tree *os.Root) <-chan error {
	done := make(chan error, 1)
	go func() {
		dir, err := tree.Open(".")
		if err != nil {
			done <- fmt.Errorf("sync staged tree: %w", err)
			return
		}
		defer dir.Close()
		if err := unix.Syncfs(int(dir.Fd())); err != nil {
			done <- fmt.Errorf("sync staged tree: %w", err)
			return
		}
		done <- nil
	}()
	return done
}

func exists(root *os.Root, name string) (bool, error) {
	_, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for %s: %w", name, err)
	}
	return true, nil
}

func list(root *os.Root) ([]string, error) {
	dir, err := root.Open(".")
	if err != nil {
		return nil, fmt.Errorf("list folder: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list folder: %w", err)
	}
	return names, nil
}
