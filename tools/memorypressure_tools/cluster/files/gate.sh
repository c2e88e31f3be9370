#!/bin/sh
# Answers a pod that asks over TCP whether the load may begin.
[ -e /run/go/start ] && echo go
