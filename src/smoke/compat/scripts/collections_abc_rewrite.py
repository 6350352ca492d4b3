sys.exit("error: this fix is not there yet")
