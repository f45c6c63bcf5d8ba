#include <stdio.h>
#include "sqlite3.h"
static int row(void*p,int n,char**v,char**c){for(int i=0;i<n;i++)printf("%s%s",i?"|":"",v[i]?v[i]:"NULL");printf("\n");return 0;}
int main(int argc,char**argv){
  sqlite3*db; char*err=0; static char sql[1<<20];
  if(sqlite3_open(argv[1],&db)){printf("open: %s\n",sqlite3_errmsg(db));return 1;}
  FILE*f=fopen(argv[2],"r"); if(!f)return 2; size_t n=fread(sql,1,sizeof sql-1,f); sql[n]=0; fclose(f);
  if(sqlite3_exec(db,sql,row,0,&err)){printf("error: %s\n",err);return 3;}
  sqlite3_close(db); return 0; }
