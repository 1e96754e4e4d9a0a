// Command chom-plugin-wordpress is the site type for WordPress. It unpacks the
// core, installs it without its web installer ever being reachable, keeps
// title and address in step, tells how the site is, and makes one-use login
// links. Updates of core, plugins and themes stay with WordPress.
package main

import "chom.dev/plugins/sdk"

func main() { sdk.Serve(wordpress{}) }
