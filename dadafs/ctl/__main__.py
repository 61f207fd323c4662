from dadafs.ctl.cli import main

main()
