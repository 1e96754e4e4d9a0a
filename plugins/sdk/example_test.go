package sdk_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"chom.dev/plugins/sdk"
	"chom.dev/proto/contract"
)

// hello is a whole site type: one page that greets.
type hello struct{}

func (hello) Describe() sdk.Description {
	siteType, err := contract.ParseSiteType("hello")
	if err != nil {
		panic(err)
	}
	return sdk.Description{
		Type:         siteType,
		Version:      "1.0.0",
		DocumentRoot: "public",
		Settings: []sdk.Setting{
			{Name: "name", Type: sdk.String, Required: true, MaxLength: 40, Pattern: `[A-Za-z ]+`},
		},
	}
}

func (h hello) Install(ctx context.Context, site sdk.Site, progress func(sdk.Progress)) (sdk.State, error) {
	public, err := site.Public()
	if err != nil {
		return sdk.State{}, err
	}
	defer public.Close()
	progress(sdk.Progress{Step: "page", Message: "Writing the page", Fraction: 0.5})
	// Written under another name first: killed in between, the next call starts
	// anew and no visitor sees half a page.
	page := fmt.Appendf(nil, "<!doctype html><title>Hello %s</title>", site.Settings["name"])
	if err := public.WriteFile(".page", page, 0o640); err != nil {
		return sdk.State{}, err
	}
	if err := public.Rename(".page", "index.html"); err != nil {
		return sdk.State{}, err
	}
	return h.Check(ctx, site)
}

func (h hello) Update(ctx context.Context, site sdk.Site) (sdk.State, error) {
	state, err := h.Check(ctx, site)
	if err == nil && !state.Installed {
		return state, sdk.ErrNotInstalled
	}
	return h.Install(ctx, site, func(sdk.Progress) {})
}

func (hello) Check(_ context.Context, site sdk.Site) (sdk.State, error) {
	public, err := site.Public()
	if err != nil {
		return sdk.State{}, err
	}
	defer public.Close()
	if _, err := public.Stat("index.html"); errors.Is(err, fs.ErrNotExist) {
		return sdk.State{}, nil
	} else if err != nil {
		return sdk.State{}, err
	}
	return sdk.State{Installed: true, HomeTitle: "Hello " + site.Settings["name"]}, nil
}

// A plugin's main package holds a site type and this call. Its program is
// called chom-plugin-hello here.
func ExampleServe() {
	os.Args = []string{"chom-plugin-hello", "describe"} // what a package build does
	sdk.Serve(hello{})
	// Output:
	// {
	//   "type": "hello",
	//   "version": "1.0.0",
	//   "document_root": "public",
	//   "settings": [
	//     {
	//       "name": "name",
	//       "type": "string",
	//       "required": true,
	//       "max_length": 40,
	//       "pattern": "[A-Za-z ]+"
	//     }
	//   ]
	// }
}
