package secret

import (
	"context"
	"errors"
	"fmt"

	"chom.dev/controlplane/db"
)

// Checked says what Check found.
type Checked struct {
	// Values is how many were opened, by the version of the key that sealed them.
	Values map[uint32]int
	// Unreadable has an error for each value that does not open.
	Unreadable []error
}

// Check opens every value of the columns.
func Check(ctx context.Context, d *db.DB, k *Keyring, columns []Column) (Checked, error) {
	checked := Checked{Values: map[uint32]int{}}
	for _, column := range columns {
		for batch, err := range column.cells(ctx, d.Reader()) {
			if err != nil {
				return Checked{}, fmt.Errorf("check secrets: %w", err)
			}
			for _, one := range batch {
				plain, err := k.Open(one.place, one.sealed)
				clear(plain)
				if err != nil {
					checked.Unreadable = append(checked.Unreadable, err)
					continue
				}
				version, err := VersionOf(one.sealed)
				if err != nil {
					return Checked{}, errors.Join(errors.New("check secrets"), err) // Open has read the same
				}
				checked.Values[version]++
			}
		}
	}
	return checked, nil
}
