# What guest scenarios share. Sourced by each (`. /guest/guest.sh`); run as `sh guest.sh clean-up` between them.
true
