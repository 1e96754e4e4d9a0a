package main

import (
	"context"
	"errors"

	"chom.dev/controlplane/backup"
	"chom.dev/proto/contract"
)

// unstored is where backups are stored while nothing stores them: all of them stay CHECKING until they are given up.
type unstored struct{}

var errUnstored = errors.New("this control plane has nowhere to store backups")

func (unstored) Check(context.Context, backup.Repository) error { return errUnstored }

func (unstored) List(context.Context, backup.Repository, string) (*contract.Listing, error) {
	return nil, errUnstored
}

func (unstored) PutManifest(context.Context, backup.Repository, uint64, []byte) error {
	return errUnstored
}

func (unstored) Usage(context.Context, backup.Repository) (uint64, error) { return 0, errUnstored }

func (unstored) Remove(context.Context, contract.OrganizationID, contract.SiteID) error {
	return errUnstored
}
