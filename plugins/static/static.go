package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"chom.dev/plugins/sdk"
	"chom.dev/proto/contract"
)

// static has three states, all told from the files alone:
//
//	empty --Install--> placeholder --customer--> theirs
//	                     Update: new title       Update: nothing
//
// A document root in which the customer was first goes straight to theirs.
type static struct{}

// version is the package's; its build sets it.
var version = "0.0.0"

func (static) Describe() sdk.Description {
	siteType, err := contract.ParseSiteType("static")
	if err != nil {
		panic(err) // a constant
	}
	return sdk.Description{
		Type:         siteType,
		Version:      version,
		DocumentRoot: "public",
		Settings: []sdk.Setting{{
			Name:        "title",
			Type:        sdk.String,
			Required:    true,
			MaxLength:   200,
			Description: "Title of the first page, until the customer brings one.",
		}},
	}
}

func (static) Install(ctx context.Context, site sdk.Site, progress func(sdk.Progress)) (sdk.State, error) {
	unlock, err := site.Lock(ctx)
	if err != nil {
		return sdk.State{}, err
	}
	defer unlock()
	public, err := site.Public()
	if err != nil {
		return sdk.State{}, fmt.Errorf("open document root: %w", err)
	}
	defer public.Close()
	if err := removeLeftover(public); err != nil {
		return sdk.State{}, err
	}
	empty, err := isEmpty(public)
	if err != nil {
		return sdk.State{}, err
	}
	if empty {
		progress(sdk.Progress{Step: "page", Message: "Writing the first page", Fraction: 0.5})
		if err := writeFirst(public, renderPage(site.Settings["title"])); err != nil {
			return sdk.State{}, err
		}
	}
	return measure(public)
}

func (static) Update(ctx context.Context, site sdk.Site) (sdk.State, error) {
	unlock, err := site.Lock(ctx)
	if err != nil {
		return sdk.State{}, err
	}
	defer unlock()
	public, err := site.Public()
	if err != nil {
		return sdk.State{}, fmt.Errorf("open document root: %w", err)
	}
	defer public.Close()
	if err := removeLeftover(public); err != nil {
		return sdk.State{}, err
	}
	empty, err := isEmpty(public)
	if err != nil {
		return sdk.State{}, err
	}
	if empty {
		return sdk.State{}, sdk.ErrNotInstalled
	}
	title := site.Settings["title"]
	present, ours, err := readPage(public)
	if err != nil {
		return sdk.State{}, err
	}
	if ours && present != title {
		if err := replace(public, renderPage(title)); err != nil {
			return sdk.State{}, err
		}
	}
	return measure(public)
}

func (static) Check(_ context.Context, site sdk.Site) (sdk.State, error) {
	public, err := site.Public()
	if err != nil {
		return sdk.State{}, fmt.Errorf("open document root: %w", err)
	}
	defer public.Close()
	return measure(public)
}

// measure says what is there: any file counts as a site, and the home page is
// only promised to hold the title while it is ours.
func measure(public *os.Root) (sdk.State, error) {
	title, ours, err := readPage(public)
	if err != nil {
		return sdk.State{}, err
	}
	if ours {
		return sdk.State{Installed: true, HomeTitle: escapeTitle(title)}, nil
	}
	empty, err := isEmpty(public)
	if err != nil {
		return sdk.State{}, err
	}
	state := sdk.State{Installed: !empty}
	if _, err := public.Lstat(indexFile); !empty && errors.Is(err, fs.ErrNotExist) {
		state.Findings = append(state.Findings, sdk.Finding{
			Code:     "no-index",
			Severity: sdk.Notice,
			Message:  "The document root has no index.html.",
		})
	}
	return state, nil
}

const (
	indexFile = "index.html"
	// tempFile is where the page is written before it gets its name. A kill in
	// between leaves it; it is ours by its name and not counted as content.
	tempFile = ".chom-index.tmp"
	pageMode = 0o640
)

func isEmpty(public *os.Root) (bool, error) {
	dir, err := public.Open(".")
	if err != nil {
		return false, fmt.Errorf("open document root: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(2)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("list document root: %w", err)
	}
	return len(names) == 0 || len(names) == 1 && names[0] == tempFile, nil
}

func removeLeftover(public *os.Root) error {
	if err := public.Remove(tempFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove half-written page: %w", err)
	}
	return nil
}

// writeFirst gives the page its name only if the name is free: a customer who
// uploads at this very moment wins.
func writeFirst(public *os.Root, page []byte) error {
	if err := writeTemp(public, page); err != nil {
		return err
	}
	if err := public.Link(tempFile, indexFile); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("publish page: %w", err)
	}
	if err := removeLeftover(public); err != nil {
		return err
	}
	return syncDir(public)
}

// replace swaps our page for a newer one of ours.
func replace(public *os.Root, page []byte) error {
	if err := writeTemp(public, page); err != nil {
		return err
	}
	if err := public.Rename(tempFile, indexFile); err != nil {
		return fmt.Errorf("publish page: %w", err)
	}
	return syncDir(public)
}

func writeTemp(public *os.Root, page []byte) error {
	f, err := public.OpenFile(tempFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, pageMode)
	if err != nil {
		return fmt.Errorf("write page: %w", err)
	}
	defer f.Close()
	if _, err := f.Write(page); err != nil {
		return fmt.Errorf("write page: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write page: %w", err)
	}
	return nil
}

// syncDir makes the new name survive a power loss: what is reported as
// installed must be there afterwards.
func syncDir(public *os.Root) error {
	dir, err := public.Open(".")
	if err != nil {
		return fmt.Errorf("sync document root: %w", err)
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("sync document root: %w", err)
	}
	return nil
}
