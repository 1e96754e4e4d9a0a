package account

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base32"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
)

// recoveryCodes is how many somebody gets at once.
const recoveryCodes = 10

// A recovery code is 80 random bits in four groups of base 32, "k3jq-x2mn-7ab4-tzp6": short enough for paper, and too long to be
// found from its hash.
var (
	recoveryPattern  = regexp.MustCompile(`^[a-z2-7]{4}(-[a-z2-7]{4}){3}$`)
	recoveryEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)
)

// ErrNoFactor says that there is nothing that recovery codes could stand in for.
var ErrNoFactor = fault.Conflict("there is no second factor yet: recovery codes come with the first one")

// CreateRecoveryCodes replaces the caller's recovery codes, which it returns once. It says ErrNoFactor to somebody without a
// second factor.
func (a *Accounts) CreateRecoveryCodes(ctx context.Context, caller Caller) ([]string, error) {
	var codes []string
	err := db.InTx(ctx, a.db, func(tx *db.Tx) error {
		have, err := factorsOf(ctx, tx, caller.ID)
		if err != nil {
			return err
		}
		if !have.Any() {
			return ErrNoFactor
		}
		if codes, err = replaceRecoveryCodes(ctx, tx, caller.ID); err != nil {
			return err
		}
		const change = "The recovery codes were replaced."
		if err := a.tellChange(ctx, tx, caller.Account, caller.From, change); err != nil {
			return err
		}
		return record(ctx, tx, caller.ID, "account.change_second_factor", change)
	})
	if err != nil {
		return nil, fmt.Errorf("create recovery codes: %w", err)
	}
	return codes, nil
}

func replaceRecoveryCodes(ctx context.Context, tx *db.Tx, account string) ([]string, error) {
	if _, err := tx.Exec(ctx, `DELETE FROM recovery_codes WHERE account_id = $1`, account); err != nil {
		return nil, err
	}
	var codes []string
	for range recoveryCodes {
		code := newRecoveryCode()
		hash, _ := hashRecoveryCode(code)
		if _, err := tx.Exec(ctx, `INSERT INTO recovery_codes (account_id, code_hash) VALUES ($1, $2)`, account, hash); err != nil {
			return nil, err
		}
		codes = append(codes, code)
	}
	return codes, nil
}

func newRecoveryCode() string {
	var b [10]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	text := strings.ToLower(recoveryEncoding.EncodeToString(b[:]))
	return text[:4] + "-" + text[4:8] + "-" + text[8:12] + "-" + text[12:]
}

// hashRecoveryCode gives the hash of a recovery code; false for a text that is none.
func hashRecoveryCode(code string) ([]byte, bool) {
	if !recoveryPattern.MatchString(code) {
		return nil, false
	}
	sum := sha256.Sum256([]byte(code))
	return sum[:], true
}

// knownRecoveryCode says ErrCode where a code is not one of somebody's.
func (a *Accounts) knownRecoveryCode(ctx context.Context, who Account, hash []byte) error {
	var one int
	err := a.db.Reader().QueryRow(ctx, `
		SELECT 1
		FROM recovery_codes
		WHERE account_id = $1
		  AND code_hash = $2`,
		who.ID, hash).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrCode
	}
	if err != nil {
		return fmt.Errorf("look up recovery code: %w", err)
	}
	return nil
}

// spendRecoveryCode removes a code and tells its owner how many are left.
func (a *Accounts) spendRecoveryCode(ctx context.Context, tx *db.Tx, who Account, from Client, hash []byte) error {
	spent, err := tx.Exec(ctx, `DELETE FROM recovery_codes WHERE account_id = $1 AND code_hash = $2`, who.ID, hash)
	if err != nil {
		return err
	}
	if spent == 0 {
		return ErrCode
	}
	left, err := factorsOf(ctx, tx, who.ID)
	if err != nil {
		return err
	}
	return a.tellChange(ctx, tx, who, from, fmt.Sprintf("A recovery code was used; %d are left.", left.RecoveryCodes))
}
