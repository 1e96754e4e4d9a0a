// Command chom-plugin-static is the site type for plain files. The customer
// brings them; the plugin only puts a first page into an empty document root,
// so that a new site answers with its title at once. It never touches a file
// that it didn't write.
package main

import "chom.dev/plugins/sdk"

func main() { sdk.Serve(static{}) }
