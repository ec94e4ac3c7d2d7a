//go:build !unix

package failoverredis_test

import "os"

var stop, cont os.Signal // there are none
