module github.com/d365failover/failover/cmd/failover

go 1.25.0

replace github.com/d365failover/failover => ../..
